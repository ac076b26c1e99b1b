"""Look over lists, frames and pose folders before hours of training are spent on them.

Counts all images, and decodes the first, the middle and the last of each video (--full: all).

python check_data.py
python check_data.py --full --flow data/flow
python check_data.py --class-index classInd.txt --split 01 --only pose-flow
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.cli import ArgumentParser, UserError, examples, positive, print_first, print_table, run, whole_number
from common.frames import Frames, check_size, find_frames
from common.parallel import cores, run_parallel
from common.records import FrameSettings
from dataloader.flow_dataloader import PARTS
from dataloader.frame_index import (
    find_places,
    holds_videos,
    index_videos,
    looks_like_frames,
    looks_like_pose_flow,
    note_on_nobody,
)
from dataloader.images import read_image
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH
from dataloader.split_train_test_video import read_split
from pose.keypoints import FILE_NAME, load_keypoints, nobody_in

FRAMES, POSE_FLOW = "frames", "pose flow"
FLOW_PARTS = tuple(f"flow {part}" for part in PARTS)
PROBLEMS = {
    "missing": "no folder, or file, below the root",
    "empty": "a folder without images",
    "gaps": "images are missing in between",
    "broken": "images that are empty or cannot be decoded",
    "short": f"fewer than {STACK_LENGTH} images; the last one would be repeated",
    "keypoints": f"{FILE_NAME} cannot be read, or is of another number of frames",
    "unmatched": "other number of pose-flow or flow images than of frames",
}
MADE_BY = {FRAMES: "extract_frames.py", POSE_FLOW: "process_pose.py"} | dict.fromkeys(FLOW_PARTS, "extract_flow.py")
NAMED = 5  # videos named per problem, without --all


@dataclass
class Finding:
    """What a video's folder or file holds: frames (0: none to train on), problems with details, whether nobody."""

    num_frames: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    nobody: bool = False


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Report what is missing, broken, short or unmatched in the images of the listed videos. "
        "Exit status 1: there are problems.",
        epilog=examples(__doc__),
    )
    add = parser.group("data").add_argument
    add("--frames", type=Path, metavar="DIR", default=Path("data/jpegs_256"), help="RGB frames, or videos")
    add("--fps", type=positive, metavar="N", help="frames a second of videos, if training has that option")
    text = f"pose folders: {FILE_NAME}, pose-flow images, or both"
    add("--pose-flow", type=Path, metavar="DIR", default=Path("data/pose_flow"), help=text)
    add("--flow", type=Path, metavar="DIR", help="optical flow, u and v (default: not looked at)")
    add("--only", choices=("frames", "pose-flow", "flow"), help="look at one of these (default: all)")
    add = parser.group("lists").add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    add("--split", metavar="NN", default="04", help="number of the train and test list")
    add("--val-list", metavar="FILE", help="list of validation videos in --ucf-list, if there is one")
    add("--class-index", metavar="FILE", default="classInd15.txt", help="class index in --ucf-list")
    add = parser.group("report").add_argument
    add("--full", action="store_true", help="decode every image, not three of each video")
    add("--all", action="store_true", help=f"name all videos, not {NAMED} per problem")
    add("--workers", type=whole_number(0), metavar="N", default=cores(), help="processes; 0: only this one")
    return parser


def examine(root: Path, videos: list[Video], full: bool, workers: int, settings: FrameSettings) -> dict[str, Finding]:
    """Findings below `root` by the video's name; of video files their number of frames by `settings`."""
    findings = {}
    if holds_videos(root):
        good, bad = index_videos(root, videos, settings)
        findings = {item.video.name: Finding(item.frames.num_frames) for item in good}
        findings |= {v.name: Finding(0, {"missing" if "no file" in reason else "broken": reason}) for v, reason in bad}
    else:
        jobs = list(find_places(root, videos).items())
        with contextlib.closing(run_parallel(partial(inspect, full=full), jobs, workers)) as results:
            for (video, _), finding, error in tqdm(results, str(root), len(jobs), disable=None, leave=False):
                if error is not None:
                    raise error
                findings[video.name] = finding
    for finding in findings.values():
        if 0 < finding.num_frames < STACK_LENGTH:
            finding.problems["short"] = f"{finding.num_frames} frames"
    return findings


def inspect(job: tuple[Video, Path | None], full: bool) -> Finding:
    """Look into a video's folder: at its images and, if there are any, its keypoints, which may stand alone."""
    video, folder = job
    if folder is None:
        return Finding(0, {"missing": f"video {video.name!r} has no folder"})
    finding = Finding()
    try:
        frames = find_frames(folder)
        finding.num_frames = frames.num_frames
        if broken := list(broken_images(frames, full)):
            finding.problems["broken"] = broken[0] + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
    except UserError as error:
        finding.problems["gaps"] = str(error)
    path = folder / FILE_NAME
    if path.exists():
        try:
            keypoints = load_keypoints(path)
            images, finding.nobody = finding.num_frames, nobody_in(keypoints)
            finding.num_frames = images or keypoints.num_frames
            if keypoints.num_frames != finding.num_frames:
                finding.problems["keypoints"] = f"{path}: is of {keypoints.num_frames} frames, beside {images} images"
        except UserError as error:
            finding.problems["keypoints"] = str(error)
    if not finding.num_frames and not finding.problems:
        finding.problems["empty"] = f"no images in {folder}"
    return finding


def broken_images(frames: Frames, full: bool) -> Iterator[str]:
    """What is wrong with images: none may be empty; all, or the first, the middle and the last, are decoded."""
    size = None
    for number in range(1, frames.num_frames + 1):
        path = frames.path(number)
        try:
            if full or number in (1, (frames.num_frames + 1) // 2, frames.num_frames) or os.stat(path).st_size == 0:
                image = read_image(path)
                size = size or image.shape[:2]
                check_size(path, image.shape[:2], size)
        except UserError as error:
            yield str(error)
        except OSError as error:
            yield f"{path}: {error.strerror}"


def check_roots(roots: dict[str, Path]) -> None:
    """Refuse a root that is no folder, is empty, or is the other one."""
    for what, root in roots.items():
        option = "--flow" if what in FLOW_PARTS else "--" + what.replace(" ", "-")
        if not root.is_dir() or not any(root.iterdir()):
            problem = "the folder is empty" if root.is_dir() else "no such folder"
            remedy = f"make it with {MADE_BY[what]}, give another with {option}, or look at one alone with --only"
            raise UserError(f"{root}: {problem}; {remedy}")
        if what == FRAMES and looks_like_pose_flow(root):
            raise UserError(f"{option} {root}: holds {FILE_NAME}, so it is pose flow; give it with --pose-flow")
        if what == POSE_FLOW and looks_like_frames(root):
            raise UserError(f"{option} {root}: holds frames of extract_frames.py; give them with --frames")


def print_counts(found: dict[str, dict[str, Finding]], lists: dict[str, list[Video]]) -> None:
    """Print a table: for the frames, the pose flow and the flow of each list the number of videos by problem."""
    rows = []
    for what, findings in found.items():
        for listed, videos in lists.items():
            problems = [findings[video.name].problems for video in videos]
            counts = [len(videos), problems.count({}), *(sum(name in those for those in problems) for name in PROBLEMS)]
            rows.append([what, listed, *(str(count or "-") for count in counts)])
    print_table(["", "list", "videos", "ok", *PROBLEMS], rows)


def print_videos(what: str, findings: dict[str, Finding], videos: Sequence[Video], limit: int | None) -> None:
    """Print the videos of each problem, at most `limit` of them, and what mends them."""
    for problem, meaning in PROBLEMS.items():
        details = {v.name: findings[v.name].problems[problem] for v in videos if problem in findings[v.name].problems}
        if details:
            first = {"broken": "remove their folders, then run", "short": ""}.get(problem, "run")
            remedy = f"; {first} {MADE_BY[what]} again" * bool(first)
            print(f"\n{what}, {problem} ({len(details)}): {meaning}{remedy}")
            lines = [f"  {name}: {detail}" for name, detail in details.items()]
            print_first(lines, "--all names all", limit, sys.stdout)


def main(argv: list[str] | None = None) -> int:
    """Check and report; returns 0 if nothing is wrong, 1 if there are problems."""
    args, started = get_args_parser().parse_args(argv), time.time()
    split = read_split(args.ucf_list, args.split, args.class_index, args.val_list)
    lists = {"train": split.train, "test": split.test} | ({"val": split.val} if split.val else {})
    videos = [video for part in lists.values() for video in part]
    roots = {FRAMES: args.frames, POSE_FLOW: args.pose_flow}
    if args.flow:
        roots |= {what: args.flow / part for what, part in zip(FLOW_PARTS, PARTS, strict=True)}
    if args.only:
        roots = {what: root for what, root in roots.items() if what.split(" ")[0] == args.only.split("-")[0]}
    if not roots:
        raise UserError("--only flow: where it lies is not given; add --flow DIR")
    check_roots(roots)
    settings = FrameSettings(fps=args.fps)
    found = {what: examine(root, videos, args.full, args.workers, settings) for what, root in roots.items()}
    for what, findings in found.items() if FRAMES in found else ():
        for name, finding in findings.items():
            frames, images = found[FRAMES][name].num_frames, finding.num_frames
            if frames and images and frames != images:
                finding.problems["unmatched"] = f"{frames} frames, {images} of {what}"
    print_counts(found, lists)
    for what, findings in found.items():
        print_videos(what, findings, videos, None if args.all else NAMED)
    print()
    nobody = [name for name, finding in found.get(POSE_FLOW, {}).items() if finding.nobody]
    if nobody:
        print(note_on_nobody(args.pose_flow, nobody, len(videos)))
    bad = {name for findings in found.values() for name, finding in findings.items() if finding.problems}
    frames = sum(finding.num_frames for findings in found.values() for finding in findings.values())
    verdict = f"{len(bad)} videos have problems" if bad else "no problems"
    print(f"{len(videos)} videos, {frames} frames, {time.time() - started:.0f} s: {verdict}")
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
