"""Make a small data set to try everything on: videos of 15 classes, their keypoints and split lists.

    python make_demo_data.py demo --seed 0
    python make_demo_data.py small --groups 8 --clips 1

Drawn people exercise, play, work and dive in drawn places. The videos are real files, named and grouped as
UCF101's are, and the lists follow the same rule: the first groups are tested on, the others trained on.
"""

from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from common.atomic import atomic_write, recover_folders
from common.cli import ArgumentParser, UserError, examples, run, whole_number
from common.parallel import run_parallel
from common.records import check_made, root_record, write_record
from demo_data.classes import ACTIONS, Action
from demo_data.clip import HEIGHT, RATE, WIDTH, render, stage
from demo_data.detector import detect
from pose.keypoints import FILE_NAME, save_keypoints

VERSION = 1  # of the figures and places: another version makes other videos
TEST_SHARE = 7 / 25  # UCF101 tests on 7 of its 25 groups


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Make drawn videos of 15 classes with keypoints and split lists.", epilog=examples(__doc__)
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to make videos/, pose_flow/ and UCF_list/ in")
    add("--seed", type=whole_number(0, 2**32), metavar="N", default=0, help="another seed, other people and places")
    add("--groups", type=whole_number(2, 99), metavar="N", default=36, help="groups per class: a person in a place")
    add("--clips", type=whole_number(1, 99), metavar="N", default=2, help="clips per group")
    add("--workers", type=whole_number(0, 256), metavar="N", default=2, help="processes; the result is the same")
    return parser


def clip_name(action: Action, group: int, clip: int) -> str:
    """Name of a clip as UCF101 numbers them, `Archery_g01_c01`."""
    return f"{action.name}_g{group:02d}_c{clip:02d}"


def split_lists(groups: int, clips: int) -> dict[str, list[str]]:
    """Lines of the three list files; groups 1 to about 28 % of `groups` are the test set."""
    tested = max(round(groups * TEST_SHARE), 1)
    lists = {
        "classInd15.txt": [f"{label} {action.name}" for label, action in enumerate(ACTIONS, 1)],
        "trainlist04.txt": [],
        "testlist04.txt": [],
    }
    for action in ACTIONS:
        for group in range(1, groups + 1):
            paths = [f"{action.name}/v_{clip_name(action, group, clip)}.avi" for clip in range(1, clips + 1)]
            if group <= tested:
                lists["testlist04.txt"] += paths
            else:
                lists["trainlist04.txt"] += [f"{path} {action.number}" for path in paths]
    return lists


def clip_files(out: Path, action: Action, group: int, clip: int) -> tuple[Path, Path]:
    """Paths of a clip's video and keypoints."""
    name = clip_name(action, group, clip)
    return out / "videos" / action.name / f"v_{name}.avi", out / "pose_flow" / name / FILE_NAME


def make_clip(job: tuple[int, int, int], out: Path, seed: int) -> None:
    """Write video and keypoints of one clip: `job` is the position in `ACTIONS`, group and clip."""
    label, group, number = job
    action = ACTIONS[label]
    video, keypoints = clip_files(out, action, group, number)
    clip = stage(action, seed, group, number)
    people, frame = detect(clip, np.random.default_rng((seed, action.number, group, number, 1)))
    made = {"demo": {"version": VERSION, "seed": seed}, "frames": {"every": 1, "fps": None, "rate": RATE}}
    write_record(keypoints.parent, made)
    save_keypoints(keypoints, people, frame, len(clip.path), (HEIGHT, WIDTH))
    with atomic_write(video) as file:
        write_video(file, render(clip))


def write_video(file: BinaryIO, images: Iterable[Image.Image]) -> None:
    """Encode RGB images of 320 × 240 as MPEG-4 in AVI to an open file."""
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=RATE, options={"qmin": "3", "qmax": "3", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def main(argv: list[str] | None = None) -> None:
    """Make what is missing of the data set and say where it is."""
    args = get_args_parser().parse_args(argv)
    poses = args.out / "pose_flow"
    if not root_record(poses) and any(path.is_file() for path in args.out.rglob("[!.]*")) or args.out.is_file():
        raise UserError(f"{args.out}: holds other things; give a new folder")
    check_made(poses, {"demo": {"version": VERSION, "seed": args.seed}})
    jobs = [
        (label, group, clip)
        for label in range(len(ACTIONS))
        for group in range(1, args.groups + 1)
        for clip in range(1, args.clips + 1)
    ]
    missing = [
        job for job in jobs if not all(path.is_file() for path in clip_files(args.out, ACTIONS[job[0]], *job[1:]))
    ]
    folders = {path.parent for job in jobs for path in clip_files(args.out, ACTIONS[job[0]], *job[1:])}
    for folder in folders | {args.out, args.out / "UCF_list"}:
        recover_folders(folder)
    results = run_parallel(partial(make_clip, out=args.out, seed=args.seed), missing, args.workers)
    with closing(results), tqdm(total=len(missing), desc="demo videos", disable=not missing, dynamic_ncols=True) as bar:
        for _, _, error in results:
            if error is not None:
                raise error
            bar.update()
    for name, lines in split_lists(args.groups, args.clips).items():
        path = args.out / "UCF_list" / name
        text = "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path, "w") as file:
                file.write(text)
    print(
        f"{len(jobs)} videos in {args.out / 'videos'}, {len(missing)} of them new; "
        f"keypoints in {args.out / 'pose_flow'}, lists in {args.out / 'UCF_list'}"
    )


if __name__ == "__main__":
    run(main)
