"""Look over lists, frames and pose-flow images before hours of training are spent on them.

python check_data.py          # counts all images, decodes the first, the middle and the last of each video
python check_data.py --full   # decodes every image
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from common.cli import ArgumentParser, UserError, run, whole_number
from common.frames import FRAME_NAME, FRAME_PATTERN
from common.parallel import run_parallel
from dataloader.frame_index import find_folders, index_frames
from dataloader.images import BrokenImage, read_image
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH
from dataloader.split_train_test_video import read_split
from pose.keypoints import FILE_NAME, load_keypoints

PROBLEMS = {
    "missing": "no folder below the root",
    "empty": "a folder without images",
    "gaps": "images are missing in between",
    "broken": "images that are empty or cannot be decoded",
    "short": f"fewer than {STACK_LENGTH} images; the last one would be repeated",
    "keypoints": f"{FILE_NAME} cannot be read, or is of another number of frames",
    "unmatched": "other number of pose-flow images than of frames, or one without the other",
}
FRAMES, POSE_FLOW = "frames", "pose flow"
NAMED = 5  # videos named per problem, without --all
CHUNK = 16  # videos per message to a worker process


class Finding(NamedTuple):
    """What one folder holds: its number of images (0 if there are none to train on) and problem → details."""

    num_frames: int
    problems: dict[str, str]


class Job(NamedTuple):
    """A folder to look into, and how: `keypoints` reads keypoints.npz, `images` the images, `full` all of them."""

    folder: str
    num_frames: int
    images: bool
    keypoints: bool
    full: bool


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Report what is missing, broken, short or unmatched in the images of the listed videos. "
        "Exit status 1: there are problems."
    )
    parser.add_argument("--frames", type=Path, metavar="DIR", default=Path("data/jpegs_256"), help="RGB frames")
    parser.add_argument(
        "--pose-flow", type=Path, metavar="DIR", default=Path("data/pose_flow"), help="pose-flow images and keypoints"
    )
    parser.add_argument("--only", choices=("frames", "pose-flow"), help="look at one of the two (default: both)")
    parser.add_argument(
        "--from-keypoints",
        action="store_true",
        help=f"pose images are not needed, {FILE_NAME} is, as for motion_pose_cnn_15.py with this flag",
    )
    parser.add_argument("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    parser.add_argument("--split", metavar="NN", default="04", help="number of the train and test list")
    parser.add_argument("--class-index", metavar="FILE", default="classInd15.txt", help="class index in --ucf-list")
    parser.add_argument("--full", action="store_true", help="decode every image, not three of each video")
    parser.add_argument("--all", action="store_true", help=f"name all videos, not {NAMED} per problem")
    parser.add_argument(
        "--workers",
        type=whole_number(0),
        metavar="N",
        default=min(os.cpu_count() or 1, 8),
        help="processes; 0: only this one",
    )
    return parser


# ---- one folder ----


def inspect(job: Job) -> Finding:
    """Look into one folder: sizes of all images, decoding of some or all, keypoints if there are any."""
    num_frames, problems = job.num_frames, {}
    if job.keypoints:
        path = Path(job.folder, FILE_NAME)
        try:
            frames = load_keypoints(path).num_frames
            if not job.images:
                num_frames = frames
            elif frames != num_frames:
                problems["keypoints"] = f"{path}: is of {frames} frames, beside {num_frames} images"
        except UserError as error:
            problems["keypoints"] = str(error)
    if job.images:
        broken = list(broken_images(job.folder, num_frames, job.full))
        if broken:
            problems["broken"] = broken[0] + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
    if 0 < num_frames < STACK_LENGTH:
        problems["short"] = f"{num_frames} images in {job.folder}"
    return Finding(num_frames, problems)


def broken_images(folder: str, num_frames: int, full: bool) -> Iterator[str]:
    """What is wrong with the images 1 … `num_frames`: empty files, then those of the decoded that are broken.

    Decoded are all of them (`full`), or the first, the middle and the last.
    """
    sizes = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if FRAME_PATTERN.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # a link to nowhere: decoding will tell
                    sizes[entry.name] = entry.stat().st_size
    numbers = range(1, num_frames + 1)
    empty = [number for number in numbers if sizes.get(FRAME_NAME.format(number)) == 0]
    yield from (f"{Path(folder, FRAME_NAME.format(number))}: the file is empty" for number in empty)
    for number in numbers if full else sorted({1, (num_frames + 1) // 2, num_frames}):
        if number not in empty:
            try:
                read_image(Path(folder, FRAME_NAME.format(number)))
            except BrokenImage as error:
                yield str(error)


def inspect_all(jobs: list[Job]) -> list[Finding]:
    """`inspect` for several jobs, which costs one message between processes."""
    return [inspect(job) for job in jobs]


def why_unusable(folder: Path | None, reason: str) -> Finding:
    """The kind of problem of a folder that the frame index refuses for that reason."""
    if folder is None:
        return Finding(0, {"missing": reason})
    try:
        some = any(FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder))
    except OSError as error:
        return Finding(0, {"broken": f"{folder}: {error.strerror}"})
    return Finding(0, {"gaps" if some else "empty": reason})


# ---- all folders ----


def examine(root: Path, flag: str, videos: list[Video], args, pose: bool, bar: tqdm) -> dict[str, Finding]:
    """Findings below `root` by the video's name. Raises `UserError` if `root` is no folder or is empty."""
    if not root.is_dir() or not any(root.iterdir()):
        raise UserError(
            f"{root}: {'the folder is empty' if root.is_dir() else 'no such folder'}; "
            f"give another with {flag}, or leave it out with --only"
        )
    folders = dict(find_folders(root, videos))
    findings, jobs = {}, {}
    if pose and args.from_keypoints:
        for video, folder in folders.items():
            if folder is None:
                findings[video.name] = Finding(0, {"missing": f"video {video.name!r} has no folder below {root}"})
            else:
                jobs[Job(str(root / folder), 0, images=False, keypoints=True, full=False)] = video
    else:
        good, bad = index_frames(root, videos)
        for video, reason in bad:
            folder = folders[video]
            findings[video.name] = why_unusable(folder and root / folder, reason)
        for video, folder, frames in good:
            keypoints = pose and Path(folder, FILE_NAME).exists()
            jobs[Job(folder, frames, images=True, keypoints=keypoints, full=args.full)] = video
    bar.update(len(findings))
    chunks = list(_chunks(jobs, CHUNK))
    with contextlib.closing(run_parallel(inspect_all, chunks, args.workers)) as results:
        for chunk, found, error in results:
            if error is not None:
                raise error
            findings.update((jobs[job].name, finding) for job, finding in zip(chunk, found, strict=True))
            bar.update(len(chunk))
    return findings


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def match(frames: dict[str, Finding], poses: dict[str, Finding]) -> None:
    """Note in `poses` where the two differ in their number of images."""
    for name, pose in poses.items():
        here, there = frames[name].num_frames, pose.num_frames
        if here != there:
            pose.problems["unmatched"] = (
                f"{here} frames, {there} pose images"
                if here and there
                else f"has {here} frames, but no pose images to train on"
                if here
                else f"has {there} pose images, but no frames to train on"
            )


def count_unlisted(root: Path, listed: set[str]) -> int:
    """Number of folders of videos below `root` that are not in `listed`."""
    classes = {name.split("/")[0] for name in listed if "/" in name}
    count = 0
    for name in _folders(root):
        if name not in listed:
            inside = _folders(root / name)
            of_class = name in classes or (inside and not any(FRAME_PATTERN.match(n) for n in os.listdir(root / name)))
            count += sum(f"{name}/{video}" not in listed for video in inside) if of_class else 1
    return count


def _folders(root: Path) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return []


# ---- report ----


def table(rows: list[tuple[str, str, list[Finding]]]) -> list[str]:
    """Lines of a table: for each (what, list, findings) the number of videos by problem."""
    columns = ["videos", "ok", *PROBLEMS]
    lines = [f"{'':10} {'list':5} " + " ".join(f"{name:>{max(len(name), 6)}}" for name in columns)]
    for what, listed, findings in rows:
        counts = [len(findings), sum(not finding.problems for finding in findings)]
        counts += [sum(name in finding.problems for finding in findings) for name in PROBLEMS]
        cells = [f"{count or '-':>{max(len(name), 6)}}" for name, count in zip(columns, counts, strict=True)]
        lines.append(f"{what:10} {listed:5} " + " ".join(cells))
    return lines


def naming(what: str, findings: dict[str, Finding], limit: int | None) -> list[str]:
    """Lines that name the videos of each problem, at most `limit` of them."""
    lines = []
    for problem, meaning in PROBLEMS.items():
        having = [(name, finding) for name, finding in findings.items() if problem in finding.problems]
        if having:
            lines += ["", f"{what}, {problem} ({len(having)}): {meaning}"]
            lines += [f"  {name}: {finding.problems[problem]}" for name, finding in having[:limit]]
            if limit and len(having) > limit:
                lines.append(f"  … and {len(having) - limit} more; --all names all")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Check and report; returns 0 if nothing is wrong, 1 if there are problems."""
    args, started = get_args_parser().parse_args(argv), time.time()
    split = read_split(args.ucf_list, args.split, args.class_index)
    videos = split.train + split.test
    roots = {FRAMES: (args.frames, "--frames"), POSE_FLOW: (args.pose_flow, "--pose-flow")}
    if args.only:
        roots = {what: roots[what] for what in roots if what == args.only.replace("-", " ")}
    with tqdm(total=len(videos) * len(roots), unit="folder", disable=None, leave=False, file=sys.stderr) as bar:
        found = {what: examine(*roots[what], videos, args, what == POSE_FLOW, bar) for what in roots}
    if not args.only:
        match(found[FRAMES], found[POSE_FLOW])
    lists = {"train": split.train, "test": split.test}
    rows = [
        (what, name, [findings[video.name] for video in part])
        for what, findings in found.items()
        for name, part in lists.items()
    ]
    lines = table(rows)
    for what, findings in found.items():
        ordered = {video.name: findings[video.name] for video in videos}
        lines += naming(what, ordered, None if args.all else NAMED)
    lines.append("")
    for root, _ in roots.values():
        unlisted = count_unlisted(root, {folder for _, folder in find_folders(root, videos) if folder})
        if unlisted:
            lines.append(f"{root}: {unlisted} more folders, which these lists do not name")
    bad = {name for findings in found.values() for name, finding in findings.items() if finding.problems}
    images = sum(finding.num_frames for findings in found.values() for finding in findings.values())
    lines.append(
        f"{len(videos)} videos, {images} images, {time.time() - started:.0f} s: "
        + (f"{len(bad)} videos have problems" if bad else "no problems")
    )
    print("\n".join(lines))
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
