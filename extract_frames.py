"""Decode videos into folders of JPEG frames: the first step from videos to actions.

python extract_frames.py UCF-101 data/jpegs_256
"""

import contextlib
import errno
import functools
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from common.atomic import atomic_folder, recover_folders
from common.cli import ArgumentParser, UserError, run
from common.frames import FRAME_NAME, FRAME_PATTERN, VIDEO_EXTENSIONS
from common.parallel import in_shard, run_parallel, shard_type
from common.video import decode_frames, encode_jpeg, resize_short_side
from dataloader.names import frame_folders, is_video


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Decode videos into FRAMES/VIDEO/frame000001.jpg, …, or FRAMES/CLASS/VIDEO/… where several "
        "classes have a video of the same name. Run again, it does what is missing. Exit status 1: some videos "
        "are broken and were left out."
    )
    parser.add_argument("videos", type=Path, help="folder of videos or of class folders of videos, or one video")
    parser.add_argument("frames", type=Path, help="folder for the folders of frames")
    parser.add_argument("--every", type=_positive, default=1, metavar="N", help="keep frames 1, 1+N, 1+2N, …")
    parser.add_argument(
        "--short-side",
        type=_positive,
        default=256,
        metavar="PIXELS",
        help="scale to this short side, the other in proportion, rounded to the nearest pixel",
    )
    parser.add_argument("--quality", type=int, choices=range(1, 101), default=95, metavar="1-100", help="JPEG quality")
    parser.add_argument("--workers", type=int, default=_cores(), help="processes; 0: only this one")
    parser.add_argument(
        "--shard",
        type=shard_type,
        metavar="i/n",
        help="do only part i (from 0) of n, for n machines; a last run without it does the rest",
    )
    return parser


# ---- videos and their folders ----


def find_videos(root: Path) -> dict[str, Path]:
    """Videos in `root`, in its subfolders, or `root` itself, by the name of their folder of frames.

    Raises `UserError` if there are none or if two would have the same folder.
    """
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise UserError(f"{root}: no such file or folder")
    paths = [
        path
        for path in sorted([*root.glob("*"), *root.glob("*/*")])
        if is_video(path) and (path.parent == root or not path.parent.name.startswith("."))
    ]
    if not paths:
        known = " ".join(sorted(VIDEO_EXTENSIONS))
        raise UserError(f"{root}: no videos in it or in its subfolders; known extensions are {known}")
    return frame_folders(paths, root)


def settings_of(args) -> str:
    """What frames depend on, as it is noted in the comment of the first frame of each video."""
    return f"every {args.every}, short side {args.short_side}, quality {args.quality}"


def read_note(folder: Path) -> tuple[str, str] | None:
    """Settings and damage noted in a finished folder of frames, both "" in one from elsewhere; None: not there.

    Raises `UserError` if the folder holds other things than frames: it shall not be replaced.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        with (folder / FRAME_NAME.format(1)).open("rb") as file:
            head = file.read(400)
        if head:
            note = head.partition(b"Frames: ")[2].partition(b"\n")[0].decode("ascii", "replace")
            return tuple((note.split("; ") + [""])[:2])
    if folder.is_dir() and all(FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder)):
        return None
    if os.path.lexists(folder):
        raise UserError(f"{folder} is in the way and holds no frames; remove it or choose another folder")
    return None


def extract(job: tuple[Path, Path], settings, threads: int = 1) -> tuple[int, str]:
    """Write the frames of the video `job[0]` to the folder `job[1]`; number of frames and damage, if any.

    `settings`: `every`, `short_side` and `quality`. The folder appears when it is complete. Raises
    `UserError` for a broken video and `OSError` with the folder's name if it cannot be written.
    """
    source, folder = job
    damage: list[str] = []
    count, first = 0, None
    try:
        with atomic_folder(folder) as temporary:
            for rgb in decode_frames(source, settings.every, threads, damage):
                rgb = resize_short_side(rgb, settings.short_side)
                count += 1
                if first is None:
                    first = rgb
                else:
                    (temporary / FRAME_NAME.format(count)).write_bytes(encode_jpeg(rgb, settings.quality))
            note = "Frames: " + "; ".join([settings_of(settings), *damage]) + "\n"
            (temporary / FRAME_NAME.format(1)).write_bytes(encode_jpeg(first, settings.quality, note))
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and read_note(folder):
            return count, "".join(damage)  # another process has finished the same video just now
        if error.errno is None:  # Pillow's own
            raise UserError(str(error)) from None
        raise OSError(error.errno, error.strerror, str(folder)) from None
    except MemoryError:
        raise UserError("its frames do not fit into memory") from None
    return count, "".join(damage)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(argv: list[str] | None = None) -> int:
    """Extract what is missing, report what is broken or damaged; status 1 if a video is broken."""
    args = get_args_parser().parse_args(argv)
    videos = {name: path for name, path in find_videos(args.videos).items() if in_shard(name, args.shard)}
    folders = {name: args.frames / name for name in videos}
    parents = {folder.parent for folder in folders.values()}
    for parent in parents:
        recover_folders(parent)
    broken, damaged, jobs = {}, {}, []
    for name, folder in folders.items():
        try:
            note = read_note(folder)
            if note is None:
                jobs.append((videos[name], folder))
            elif note[0] not in ("", settings_of(args)):
                raise UserError(f"{folder} was made with {note[0]}; remove it or choose another folder")
            elif note[1]:
                damaged[videos[name]] = note[1]
        except UserError as error:
            broken[videos[name]] = error
    total, start = 0, time.perf_counter()
    work = functools.partial(extract, settings=args, threads=max(1, args.workers // max(1, len(jobs))))
    try:
        with contextlib.closing(run_parallel(work, jobs, args.workers)) as results:
            for (path, _), result, error in tqdm(results, "videos", len(jobs), disable=None):
                if isinstance(error, OSError):
                    raise error
                if error:
                    broken[path] = error
                    continue
                total += result[0]
                if result[1]:
                    damaged[path] = result[1]
    finally:
        for parent in parents:
            recover_folders(parent)  # what ended processes left
    seconds = time.perf_counter() - start
    made = len(jobs) - sum(path in broken for path, _ in jobs)
    for path in sorted(damaged):
        print(f"kept: {path}: {damaged[path]}", file=sys.stderr)
    for path in sorted(broken):
        print(f"left out: {path}: {broken[path]}", file=sys.stderr)
    print(
        f"{len(videos)} videos{f' of shard {args.shard}' if args.shard else ''}: {made} extracted ({total} frames, "
        f"{total / max(seconds, 1e-9):.0f} a second), {len(videos) - made - len(broken)} were there, "
        f"{len(damaged)} damaged, {len(broken)} broken"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    run(main)
