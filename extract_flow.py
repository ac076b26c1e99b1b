"""Optical flow between following frames, as grey images: from folders of frames, or straight from videos.

python extract_flow.py data/jpegs_256 data/flow --preview flow.png
python extract_flow.py my_videos data/flow --fps 25 --method raft --device cuda
"""

import argparse
import contextlib
import functools
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common import video
from common.atomic import recover_folders, replace_folder, temporary_name
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.contact_sheet import choose_frames, write_sheet
from common.frames import FRAME_NAME, count_frames, find_frame_folders, has_images, list_frames, read_image
from common.optical_flow import METHODS, decode_flow, flow_colors, flow_images, flow_method
from common.parallel import Report, cores, in_shard, make_images
from common.records import (
    FrameSettings,
    add_frame_arguments,
    check_made,
    read_record,
    root_record,
    settings_from_arguments,
    write_record,
)
from common.video import encode_jpeg, through_jpeg
from dataloader.flow_dataloader import PARTS
from dataloader.images import read_grey
from dataloader.names import find_videos
from utils import pick_device

PREVIEWED = 12  # frames


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Write the optical flow from each frame to the next one as FLOW/u/VIDEO/frame000001.jpg, … (to the "
        "right) and FLOW/v/VIDEO/… (downwards): -20 to 20 pixels as 0 to 255, 128 is no motion. Run again, it does "
        "what is missing. Exit status 1: some videos are broken and were skipped.",
        epilog=examples(__doc__),
    )
    add = parser.add_argument
    add("frames", type=Path, metavar="FRAMES", help="folders of frames, or videos: a folder, class folders, or one")
    add("flow", type=Path, metavar="FLOW", help="folder for u and v")
    text = f"sheet of {PREVIEWED} frames and their flow in colours"
    add("--preview", type=Path, metavar="FILE.png", help=text)
    add = parser.group("method").add_argument
    text = "DIS, Farneback and TV-L1 of OpenCV, RAFT (large or small) of torchvision"
    add("--method", choices=METHODS, default="dis", help=text)
    add("--weights", type=Path, metavar="FILE", help="RAFT's weights (default: downloaded by torchvision)")
    add = parser.group("machine").add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where RAFT computes")
    text = "processes; 0: only this one, which RAFT takes"
    add("--workers", type=whole_number(0), default=cores(), metavar="N", help=text)
    add("--shard", type=shard, metavar="i/n", help="only part i of n, from 0; a last run without it does the rest")
    add_frame_arguments(parser.add_argument_group("frames that are made of videos"), FrameSettings())
    return parser


def find_sources(root: Path) -> dict[str, Path]:
    """Folders of frames below `root`, or videos, by the name that their flow's folders have below u and v."""
    folders = {name: root / name for name in find_frame_folders(root)} if root.is_dir() else {}
    return folders if any(map(has_images, folders.values())) else find_videos(root)


def noted_damage(root: Path, name: str, source: Path) -> str | None:
    """Damage of its video that finished flow tells of ("": none); None: it is to be made (again)."""
    u, v = (root / part / name for part in PARTS)
    record = read_record(u)
    with contextlib.suppress(UserError):
        if record.get("count") == count_frames(u) == count_frames(v):
            return None if source.is_dir() and count_frames(source) != record["count"] else record.get("damage", "")
    return None


def frames_of(source: Path, settings: FrameSettings, damage: list[str]) -> Iterator[np.ndarray]:
    """The frames of a folder, or those that extract_frames.py would make of a video."""
    if source.is_dir():
        return map(read_image, list_frames(source))
    return (through_jpeg(rgb, settings.quality) for rgb in video.frames_of(source, settings, damage=damage))


def extract(job: tuple[Path, str, Path], root: Path, method: tuple, settings: FrameSettings) -> tuple[int, str]:
    """Write the flow of one source; number of images and damage, if any.

    `job`: the source, its name, and a folder for what is not complete; `method`: the arguments of `flow_method`. The
    folder of u is the last to be renamed.
    """
    source, name, temporary = job
    damage: list[str] = []
    places = [temporary / part for part in PARTS]
    try:
        for place in places:
            place.mkdir(parents=True)
        count = 0
        for count, image in enumerate(flow_images(frames_of(source, settings, damage), flow_method(*method)), 1):
            for place, grey in zip(places, np.moveaxis(image, 2, 0), strict=True):
                (place / FRAME_NAME.format(count)).write_bytes(encode_jpeg(grey))
        if not count:
            raise UserError("no frames in it")
        frames = read_record(source).get("frames") if source.is_dir() else video.made_of(source, settings)
        record = {"flow": {"method": method[0]}, "count": count, "damage": "".join(damage)}
        for place in places:
            write_record(place, record | {"frames": frames})
        for part, place in reversed(list(zip(PARTS, places, strict=True))):
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
            replace_folder(place, root / part / name)
    except OSError as error:
        error.filename = str(root / PARTS[0] / name)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count, "".join(damage)


def main(argv: list[str] | None = None) -> int:
    """Compute what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    if args.preview and args.preview.suffix.lower() != ".png":
        raise UserError(f"--preview {args.preview}: give a name that ends in .png")
    sources = {name: path for name, path in find_sources(args.frames).items() if in_shard(name, args.shard)}
    settings = settings_from_arguments(args)
    check_arguments(args)
    frames = asdict(settings)
    if any(path.is_dir() for path in sources.values()):
        frames = root_record(args.frames).get("frames")
    check_made(args.flow, {"flow": {"method": args.method}, "frames": frames})
    method = args.method, pick_device(args.device), args.weights
    flow_method(*method)  # what is missing for it is told before the work begins
    for folder in (args.flow, *args.flow.glob("[uv]"), *args.flow.glob("[uv]/[!.]*")):
        if folder.is_dir() and not (folder / FRAME_NAME.format(1)).exists():
            recover_folders(folder)
    report, jobs = Report(), []
    for name, source in sources.items():
        damage = noted_damage(args.flow, name, source)
        if damage is None:
            jobs.append((source, name, temporary_name(args.flow / "flow")))
        elif damage:
            report.damaged[source] = damage
    work = functools.partial(extract, root=args.flow, method=method, settings=settings)
    make_images(work, jobs, 0 if args.method.startswith("raft") else args.workers, report)
    status = report.show(len(sources), "done", args.flow, args.shard)
    if args.preview:
        done = {name: source for name, source in sources.items() if source not in report.broken}
        write_preview(args.preview, args.flow, done, settings)
        print(f"preview: {args.preview}")
    return status


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse to write the flow among frames."""
    if args.flow.exists() and not args.flow.is_dir():
        raise UserError(f"{args.flow} is in the way and no folder; remove it or choose another one")
    if args.flow.resolve() == args.frames.resolve():
        raise UserError(f"{args.flow}: this is the folder of frames; flow needs one of its own")


def write_preview(path: Path, root: Path, sources: dict[str, Path], settings: FrameSettings) -> None:
    """A contact sheet of frames of the finished `sources` beside their flow in colours."""
    names = list(sources)
    folders = [[root / part / name for part in PARTS] for name in names]
    cells = []
    for index, number in choose_frames([count_frames(u) for u, _ in folders], PREVIEWED):
        source = sources[names[index]]
        if source.is_dir():
            frame = read_image(list_frames(source)[number - 1])
        else:
            frame = next(itertools.islice(frames_of(source, settings, []), number - 1, None))
        flow = decode_flow(np.stack([read_grey(folder / FRAME_NAME.format(number)) for folder in folders[index]], 2))
        cells.append((f"{names[index]}, frame {number}", (frame, flow_colors(flow))))
    side = np.linspace(-4, 4, 49)
    note = "colour: direction of motion, outwards from the square's middle; strength: speed, in each picture's scale"
    write_sheet(path, cells, note, flow_colors(np.stack(np.meshgrid(side, side), 2)))


if __name__ == "__main__":
    run(main)
