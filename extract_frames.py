"""Decode videos into folders of JPEG frames: the first step from videos to actions.

python extract_frames.py data/UCF-101 data/jpegs_256
python extract_frames.py my_videos data/frames --fps 25
python extract_frames.py clip.mp4 data/frames --every 2 --short-side 128
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from common.cli import ArgumentParser, examples, run, shard, whole_number
from common.frames import FRAME_NAME
from common.parallel import cores, make_all
from common.records import FrameSettings, add_frame_arguments, settings_from_arguments
from common.video import encode_jpeg, frames_of, made_of
from dataloader.names import find_videos


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Decode videos into FRAMES/VIDEO/frame000001.jpg, …, or FRAMES/CLASS/VIDEO/… where several "
        "classes have a video of the same name. Run again, it does what is missing. Exit status 1: some videos "
        "are broken and were skipped.",
        epilog=examples(__doc__),
    )
    add = parser.add_argument
    add("videos", type=Path, help="folder of videos or of class folders of videos, or one video")
    add("frames", type=Path, help="folder for the folders of frames")
    add_frame_arguments(parser.group("frames"), FrameSettings())
    add = parser.group("machine").add_argument
    add("--workers", type=whole_number(0), default=cores(), metavar="N", help="processes; 0: only this one")
    add("--shard", type=shard, metavar="i/n", help="only part i of n, from 0; a last run without it does the rest")
    return parser


def write_frames(video: Path, folders: list[Path], settings: FrameSettings, threads: int) -> dict:
    """Write the frames of a video to its one folder; returns their record."""
    damage: list[str] = []
    for count, rgb in enumerate(frames_of(video, settings, threads, damage), 1):
        (folders[0] / FRAME_NAME.format(count)).write_bytes(encode_jpeg(rgb, settings.quality))
    return {"frames": made_of(video, settings), "count": count, "damage": "".join(damage)}


def main(argv: list[str] | None = None) -> int:
    """Extract what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    videos, settings = find_videos(args.videos), settings_from_arguments(args)
    work = partial(write_frames, settings=settings, threads=max(1, args.workers // len(videos)))
    return make_all(videos, [""], work, args.frames, {"frames": asdict(settings)}, args)


if __name__ == "__main__":
    run(main)
