"""Optical flow between following frames, as grey images: from folders of frames, or straight from videos.

python extract_flow.py data/jpegs_256 data/flow --preview flow.png
python extract_flow.py my_videos data/flow --fps 25 --method raft --device cuda
"""

import contextlib
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from common import video
from common.atomic import atomic_folder, recover_folders
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.contact_sheet import choose_frames, write_sheet
from common.frames import FRAME_NAME, count_frames, find_frame_folders, has_images, list_frames, read_image
from common.optical_flow import METHODS, decode_flow, flow_colors, flow_images, flow_method
from common.parallel import cores, in_shard, make_all
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


def noted_damage(out: Path, name: str, source: Path) -> str | None:
    """Damage of its video that finished flow tells of ("": none); None: it is to be made (again)."""
    u, v = (out / part / name for part in PARTS)
    record = read_record(u)
    with contextlib.suppress(UserError):
        if record.get("count") == count_frames(u) == count_frames(v):
            return None if source.is_dir() and count_frames(source) != record["count"] else record.get("damage", "")
    return None


def frames_of(source: Path, settings: FrameSettings, damage: list[str]) -> Iterable[np.ndarray]:
    """The frames of a folder, or those that extract_frames.py would make of a video."""
    if source.is_dir():
        return map(read_image, list_frames(source))
    return (through_jpeg(rgb, settings.quality) for rgb in video.frames_of(source, settings, damage=damage))


def extract(
    name: str, scratch: Path, sources: dict[str, Path], out: Path, method: tuple, settings: FrameSettings
) -> tuple[int, str]:
    """Write the flow of one source by `flow_method(*method)`; number of images and damage, if any.

    The folder of u is the last one to be renamed.
    """
    source, damage, count = sources[name], [], 0
    u, v = (out / part / name for part in PARTS)
    with atomic_folder(u, scratch / "u" / name) as u, atomic_folder(v, scratch / "v" / name) as v:
        for count, image in enumerate(flow_images(frames_of(source, settings, damage), flow_method(*method)), 1):
            for folder, grey in zip((u, v), np.moveaxis(image, 2, 0), strict=True):
                (folder / FRAME_NAME.format(count)).write_bytes(encode_jpeg(grey))
        if not count:
            raise UserError("no frames in it")
        frames = read_record(source).get("frames") if source.is_dir() else video.made_of(source, settings)
        for folder in (u, v):
            record = {"flow": {"method": method[0]}, "frames": frames, "count": count, "damage": "".join(damage)}
            write_record(folder, record)
    return count, "".join(damage)


def main(argv: list[str] | None = None) -> int:
    """Compute what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    out, sources = args.flow, {n: p for n, p in find_sources(args.frames).items() if in_shard(n, args.shard)}
    if out.resolve() == args.frames.resolve():
        raise UserError(f"{out}: this is the folder of frames; flow needs one of its own")
    settings = settings_from_arguments(args)
    of_folders = any(path.is_dir() for path in sources.values())
    frames = root_record(args.frames).get("frames") if of_folders else asdict(settings)
    check_made(out, {"flow": {"method": args.method}, "frames": frames})
    method = args.method, pick_device(args.device), args.weights
    flow_method(*method)  # what is missing for it is told before the work begins
    for parent in {(out / part / name).parent for name in sources for part in ("", *PARTS)}:
        recover_folders(parent)
    args.workers *= args.method != "raft"
    work = partial(extract, sources=sources, out=out, method=method, settings=settings)
    status = make_all(sources, lambda name: noted_damage(out, name, sources[name]), work, out, args)
    if args.preview:
        done = {name: source for name, source in sources.items() if (out / PARTS[0] / name).is_dir()}
        write_preview(args.preview, out, done, settings)
        print(f"preview: {args.preview}")
    return status


def write_preview(path: Path, root: Path, sources: dict[str, Path], settings: FrameSettings) -> None:
    """A contact sheet of frames of the finished `sources` beside their flow in colours."""
    names = list(sources)
    folders = [[root / part / name for part in PARTS] for name in names]
    cells = []
    for index, number in choose_frames([count_frames(u) for u, _ in folders], PREVIEWED):
        source = sources[names[index]]
        frame = next(islice(frames_of(source, settings, []), number - 1, None))
        flow = decode_flow(np.stack([read_grey(folder / FRAME_NAME.format(number)) for folder in folders[index]], 2))
        cells.append((f"{names[index]}, frame {number}", (frame, flow_colors(flow))))
    side = np.linspace(-4, 4, 49)
    note = "colour: direction of motion, outwards from the square's middle; strength: speed, in each picture's scale"
    write_sheet(path, cells, note, flow_colors(np.stack(np.meshgrid(side, side), 2)))


if __name__ == "__main__":
    run(main)
