"""Decode videos into folders of JPEG frames: the first step from videos to actions.

python extract_frames.py data/UCF-101 data/jpegs_256
python extract_frames.py my_videos data/frames --fps 25
python extract_frames.py clip.mp4 data/frames --every 2 --short-side 128
"""

import contextlib
import functools
import os
from dataclasses import asdict
from pathlib import Path

from common.atomic import atomic_folder, recover_folders, temporary_name
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.frames import FRAME_NAME, FRAME_PATTERN, count_frames
from common.parallel import Report, cores, in_shard, make_images
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


# ---- folders of frames ----


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


def extract(job: tuple[Path, Path, Path], settings: FrameSettings, threads: int = 1) -> tuple[int, str]:
    """Write the frames of a video to a folder; number of frames and damage, if any.

    `job`: the video, the folder, and its name until it is complete.
    """
    source, folder, temporary = job
    damage: list[str] = []
    try:
        with atomic_folder(folder, temporary):
            for count, rgb in enumerate(frames_of(source, settings, threads, damage), 1):
                (temporary / FRAME_NAME.format(count)).write_bytes(encode_jpeg(rgb, settings.quality))
            record = {"frames": made_of(source, settings), "count": count, "damage": "".join(damage)}
            write_record(temporary, record)
    except OSError as error:
        error.filename = str(folder)
        raise
    return count, "".join(damage)


def main(argv: list[str] | None = None) -> int:
    """Extract what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    videos = {name: path for name, path in find_videos(args.videos).items() if in_shard(name, args.shard)}
    folders = {name: args.frames / name for name in videos}
    if args.frames.exists() and not args.frames.is_dir():
        raise UserError(f"{args.frames}: is no folder; give the one that the folders of frames go to")
    settings = settings_from_arguments(args)
    made = {"frames": asdict(settings)}
    check_made(args.frames, made)
    for parent in {folder.parent for folder in folders.values()}:
        recover_folders(parent)
    report, jobs = Report(), []
    for name, folder in folders.items():
        try:
            damage = noted_damage(folder, made)
            if damage is None:
                jobs.append((videos[name], folder, temporary_name(folder)))
            elif damage:
                report.damaged[videos[name]] = damage
        except UserError as error:
            report.broken[videos[name]] = error
    work = functools.partial(extract, settings=settings, threads=max(1, args.workers // max(1, len(jobs))))
    make_images(work, jobs, args.workers, report)
    return report.show(len(videos), "extracted", args.frames, args.shard)


if __name__ == "__main__":
    run(main)
