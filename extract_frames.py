"""Decode videos into folders of JPEG frames: the first step from videos to actions.

python extract_frames.py data/UCF-101 data/jpegs_256
python extract_frames.py my_videos data/frames --fps 25
python extract_frames.py clip.mp4 data/frames --every 2 --short-side 128
"""

import contextlib
import functools
import os
from pathlib import Path

from common.atomic import atomic_folder, recover_folders, temporary_name
from common.cli import ArgumentParser, UserError, examples, run, shard, whole_number
from common.frames import FRAME_NAME, FRAME_PATTERN, frame_numbers
from common.parallel import Report, cores, in_shard, make_images
from common.records import (
    NOTE,
    FrameSettings,
    add_frame_arguments,
    check_frame_settings,
    keep_frame_settings,
    settings_from_arguments,
)
from common.video import encode_jpeg, frames_of
from dataloader.frame_index import frame_settings
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


def noted_damage(folder: Path, settings: FrameSettings) -> str | None:
    """Damage of its video that a finished folder of frames tells of ("": none); None: it is to be made.

    It is made again if frame numbers have a gap or do not reach the count noted in the first frame. Raises `UserError`
    if it was made with other settings, or if more than our own frames would be replaced.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is in the way and no folder; remove it or choose another one")
    first = folder / FRAME_NAME.format(1)
    head = ""
    with contextlib.suppress(FileNotFoundError), first.open("rb") as file:
        head = file.read(400).decode("latin-1")
    note = NOTE.search(head)
    made_with, damage, count = note.groups("") if note else ("", "", "")
    if made_with not in ("", str(settings)):
        raise UserError(f"{folder} was made with {made_with}; remove it or choose another folder")
    numbers = frame_numbers(folder) - (set() if head else {1})
    missing = set(range(1, max(numbers | {int(count or 1)}) + 1)) - numbers
    if not missing:
        return damage
    if (head and not note) or not all(FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder)):
        why = f"{FRAME_NAME.format(min(missing))} is missing in it, and it holds other things than our frames"
        raise UserError(f"{folder} is in the way: {why}; remove it or choose another folder")
    return None


def extract(job: tuple[Path, Path, Path], settings: FrameSettings, threads: int = 1) -> tuple[int, str]:
    """Write the frames of a video to a folder; number of frames and damage, if any.

    `job`: the video, the folder, and its name until it is complete.
    """
    source, folder, temporary = job
    damage: list[str] = []
    try:
        with atomic_folder(folder, temporary):
            pictures = frames_of(source, settings, threads, damage)
            for count, rgb in enumerate(pictures, 1):
                if count == 1:  # written last, with the note
                    first = rgb
                else:
                    (temporary / FRAME_NAME.format(count)).write_bytes(encode_jpeg(rgb, settings.quality))
            note = f"Frames: {'; '.join([str(settings), *damage])}\nCount: {count}\n"
            (temporary / FRAME_NAME.format(1)).write_bytes(encode_jpeg(first, settings.quality, note))
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
    check_frame_settings(args.frames, frame_settings(args.frames), settings)
    for parent in {folder.parent for folder in folders.values()}:
        recover_folders(parent)
    report, jobs = Report(), []
    for name, folder in folders.items():
        try:
            damage = noted_damage(folder, settings)
            if damage is None:
                jobs.append((videos[name], folder, temporary_name(folder)))
                continue
            keep_frame_settings(args.frames, settings)
            if damage:
                report.damaged[videos[name]] = damage
        except UserError as error:
            report.broken[videos[name]] = error
    work = functools.partial(extract, settings=settings, threads=max(1, args.workers // max(1, len(jobs))))
    make_images(work, jobs, args.workers, report, lambda: keep_frame_settings(args.frames, settings))
    return report.show(len(videos), "extracted", args.frames, args.shard)


if __name__ == "__main__":
    run(main)
