"""Optical flow between following frames, as grey images: from folders of frames, or straight from videos.

python extract_flow.py data/jpegs_256 data/flow
python extract_flow.py my_videos data/flow --fps 25 --method raft --device cuda
"""

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from common import video
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.frames import FRAME_NAME, find_frame_folders, has_images, list_frames, read_image
from common.optical_flow import METHODS, flow_images, flow_method
from common.parallel import cores, make_all
from common.records import FrameSettings, add_frame_arguments, read_record, root_record, settings_from_arguments
from common.video import encode_jpeg, through_jpeg
from dataloader.flow_dataloader import PARTS
from dataloader.names import find_videos
from utils import pick_device


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
    add = parser.group("method").add_argument
    text = "DIS of OpenCV, RAFT of torchvision"
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


def frames_of(source: Path, settings: FrameSettings, damage: list[str]) -> Iterable[np.ndarray]:
    """The frames of a folder, or those that extract_frames.py would make of a video."""
    if source.is_dir():
        return map(read_image, list_frames(source))
    return (through_jpeg(rgb, settings.quality) for rgb in video.frames_of(source, settings, damage=damage))


def write_flow(source: Path, folders: list[Path], method: tuple, settings: FrameSettings) -> dict:
    """Write the flow of one source by `flow_method(*method)` to the folders of u and v; returns their record."""
    damage, count = [], 0
    for count, image in enumerate(flow_images(frames_of(source, settings, damage), flow_method(*method)), 1):
        for folder, grey in zip(folders, np.moveaxis(image, 2, 0), strict=True):
            (folder / FRAME_NAME.format(count)).write_bytes(encode_jpeg(grey))
    if not count:
        raise UserError("no frames in it")
    frames = read_record(source).get("frames") if source.is_dir() else video.made_of(source, settings)
    return {"flow": {"method": method[0]}, "frames": frames, "count": count, "damage": "".join(damage)}


def main(argv: list[str] | None = None) -> int:
    """Compute what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    if args.flow.resolve() == args.frames.resolve():
        raise UserError(f"{args.flow}: this is the folder of frames; flow needs one of its own")
    sources, settings = find_sources(args.frames), settings_from_arguments(args)
    of_folders = any(path.is_dir() for path in sources.values())
    made = {
        "flow": {"method": args.method},
        "frames": root_record(args.frames).get("frames") if of_folders else asdict(settings),
    }
    method = args.method, pick_device(args.device), args.weights
    flow_method(*method)  # what is missing for it is told before the work begins
    args.workers *= args.method != "raft"
    return make_all(sources, PARTS, partial(write_flow, method=method, settings=settings), args.flow, made, args)


if __name__ == "__main__":
    run(main)
