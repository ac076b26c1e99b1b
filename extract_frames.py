"""Decode videos into folders of JPEG frames: the first step from videos to actions.

python extract_frames.py data/UCF-101 data/jpegs_256
python extract_frames.py my_videos data/frames --fps 25
python extract_frames.py clip.mp4 data/frames --every 2 --short-side 128
"""

import contextlib
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

from common.atomic import atomic_folder, recover_folders
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.frames import FRAME_NAME, FRAME_PATTERN, count_frames
from common.parallel import cores, in_shard, make_all
from common.records import (
    RECORD,
    FrameSettings,
    add_frame_arguments,
    check_made,
    read_record,
    settings_from_arguments,
    write_record,
)
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


def noted_damage(folder: Path, made: dict) -> str | None:
    """Damage of its video that a finished folder of frames tells of ("": none); None: it is to be made (again).

    Refuses frames that are known to be made otherwise, and a folder with gaps that holds more than our own frames.
    """
    if not folder.exists():
        return None
    record, files = read_record(folder), os.listdir(folder) if folder.is_dir() else [folder.name]
    check_made(folder, made, record)
    with contextlib.suppress(UserError):
        count = count_frames(folder)
        if count and count == record.get("count", count):
            return record.get("damage", "")
    if files and not (record and all(name == RECORD or FRAME_PATTERN.fullmatch(name) for name in files)):
        raise UserError(f"{folder} is in the way: frames are missing, and it holds other things; remove it")
    return None


def extract(
    name: str, scratch: Path, videos: dict[str, Path], out: Path, settings: FrameSettings, threads: int
) -> tuple[int, str]:
    """Write the frames of a video to its folder in `out`; number of frames and damage, if any."""
    damage: list[str] = []
    with atomic_folder(out / name, scratch / name) as folder:
        for count, rgb in enumerate(frames_of(videos[name], settings, threads, damage), 1):
            (folder / FRAME_NAME.format(count)).write_bytes(encode_jpeg(rgb, settings.quality))
        record = {"frames": made_of(videos[name], settings), "count": count, "damage": "".join(damage)}
        write_record(folder, record)
    return count, "".join(damage)


def main(argv: list[str] | None = None) -> int:
    """Extract what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    out, videos = args.frames, {n: path for n, path in find_videos(args.videos).items() if in_shard(n, args.shard)}
    settings = settings_from_arguments(args)
    made = {"frames": asdict(settings)}
    check_made(out, made)
    for parent in {(out / name).parent for name in videos}:
        recover_folders(parent)
    threads = max(1, args.workers // max(1, len(videos)))
    work = partial(extract, videos=videos, out=out, settings=settings, threads=threads)
    return make_all(videos, lambda name: noted_damage(out / name, made), work, out, args)


if __name__ == "__main__":
    run(main)
