"""Look over lists, frames and pose-flow images before hours of training are spent on them.

Counts all images, decodes the first, the middle and the last of each video (--full: all), and tells what to do next.

python check_data.py
python check_data.py --full --flow data/flow
python check_data.py --class-index classInd.txt --split 01 --from-keypoints
"""

import contextlib
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from common.cli import ArgumentParser, UserError, examples, fail, print_first, print_table, run, whole_number
from common.frames import FRAME_NAME, frame_numbers
from common.images import BrokenImage
from common.parallel import run_parallel
from dataloader import frame_index
from dataloader.flow_dataloader import PARTS
from dataloader.frame_index import IndexedVideo, find_folders, folders_in, index_frames
from dataloader.images import read_image
from dataloader.names import Video, first_names
from dataloader.sampling import STACK_LENGTH
from dataloader.split_train_test_video import Split, read_class_index, read_split
from pose.keypoints import FILE_NAME, load_keypoints, nobody_in
from training.next_steps import FLOW, FRAMES, POSE_FLOW, SCRIPTS, Lists, find_run, next_steps

PROBLEMS = {
    "missing": "no folder below the root",
    "empty": "a folder without images",
    "gaps": "images are missing in between",
    "broken": "images that are empty or cannot be decoded",
    "short": f"fewer than {STACK_LENGTH} images; the last one would be repeated",
    "keypoints": f"{FILE_NAME} cannot be read, or is of another number of frames",
    "unmatched": "other number of pose-flow or flow images than of frames, or one without the other",
}
FLOW_PARTS = tuple(f"flow {part}" for part in PARTS)
UCF101_CLASSES = Path(__file__).resolve().parent / "UCF_list" / "classInd.txt"
NAMED = 5  # videos named per problem, without --all


class Finding(NamedTuple):
    """What one folder holds: its number of images (0: none to train on), problem → details, whether it shows nobody."""

    num_frames: int
    problems: dict[str, str]
    nobody: bool = False


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Report what is missing, broken, short or unmatched in the images of the listed videos. "
        "Then tell what to do next. Exit status 1: there are problems.",
        epilog=examples(__doc__),
    )
    add = parser.group("data").add_argument
    add("--frames", type=Path, metavar="DIR", default=Path("data/jpegs_256"), help="RGB frames")
    add("--pose-flow", type=Path, metavar="DIR", default=Path("data/pose_flow"), help="pose-flow images and keypoints")
    add("--flow", type=Path, metavar="DIR", help="optical flow, u and v (default: not looked at)")
    add("--only", choices=("frames", "pose-flow", "flow"), help="look at one of these (default: all)")
    add(
        "--from-keypoints",
        action="store_true",
        help=f"the pose flow needs {FILE_NAME}, but no images, as for the skeleton stream",
    )
    add = parser.group("lists").add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    add("--split", metavar="NN", default="04", help="number of the train and test list")
    add("--val-list", metavar="FILE", help="list of validation videos in --ucf-list, if there is one")
    add("--class-index", metavar="FILE", default="classInd15.txt", help="class index in --ucf-list")
    add = parser.group("report").add_argument
    add("--record", type=Path, metavar="DIR", default=Path("record"), help="where runs are: next steps leave these out")
    add("--full", action="store_true", help="decode every image, not three of each video")
    add("--all", action="store_true", help=f"name all videos, not {NAMED} per problem")
    workers = min(os.cpu_count() or 1, 8)
    add("--workers", type=whole_number(0), metavar="N", default=workers, help="processes; 0: only this one")
    return parser


def inspect(video: IndexedVideo, pose: bool, full: bool) -> Finding:
    """Look into one folder: at its images and, of `pose` flow, its keypoints, which must be there without images."""
    num_frames, problems, nobody = video.num_frames, {}, False
    path = Path(video.folder, FILE_NAME)
    if pose and (not num_frames or path.exists()):
        try:
            keypoints = load_keypoints(path)
            frames, nobody = keypoints.num_frames, nobody_in(keypoints)
            num_frames = num_frames or frames
            if frames != num_frames:
                problems["keypoints"] = f"{path}: is of {frames} frames, beside {num_frames} images"
        except UserError as error:
            problems["keypoints"] = str(error)
    broken = list(broken_images(video, full))
    if broken:
        problems["broken"] = broken[0] + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
    if 0 < num_frames < STACK_LENGTH:
        problems["short"] = f"{num_frames} images in {video.folder}"
    return Finding(num_frames, problems, nobody)


def broken_images(video: IndexedVideo, full: bool) -> Iterator[str]:
    """What is wrong with images: none may be empty; all, or the first, the middle and the last, are decoded."""
    last = video.num_frames
    for number in range(1, last + 1):
        path = Path(video.folder, FRAME_NAME.format(number))
        try:
            if full or number in (1, (last + 1) // 2, last) or path.stat().st_size == 0:
                read_image(path)
        except BrokenImage as error:
            yield str(error)
        except OSError as error:
            yield f"{path}: {error.strerror}"


def kind_of_problem(folder: Path | None) -> str:
    """Why the frame index refuses a folder, one of `PROBLEMS`."""
    try:
        return "missing" if folder is None else "gaps" if frame_numbers(folder) else "empty"
    except UserError:
        return "broken"


def check_roots(roots: dict[str, Path]) -> None:
    """Raise `UserError` if a root is no folder, is empty, or is the other one."""
    for what, root in roots.items():
        option = "--flow" if what in FLOW_PARTS else "--" + what.replace(" ", "-")
        if not root.is_dir() or not any(root.iterdir()):
            problem = "the folder is empty" if root.is_dir() else "no such folder"
            raise UserError(f"{root}: {problem}; give another with {option}, or skip it with --only")
        if what == FRAMES and frame_index.looks_like_pose_flow(root):
            raise UserError(f"{option} {root}: holds {FILE_NAME}, so it is pose flow; give it with --pose-flow")
        if what == POSE_FLOW and frame_index.looks_like_frames(root):
            raise UserError(f"{option} {root}: holds frames of extract_frames.py; give them with --frames")


def examine(root: Path, videos: list[Video], args: Namespace, pose: bool) -> dict[str, Finding]:
    """Findings below `root` by the video's name."""
    folders = {video: root / folder if folder else None for video, folder in find_folders(root, videos)}
    if pose and args.from_keypoints:
        good = [IndexedVideo(video, str(folder), 0) for video, folder in folders.items() if folder]
        bad = [(v, f"video {v.name!r} has no folder below {root}") for v, folder in folders.items() if not folder]
    else:
        good, bad = index_frames(root, videos)
    findings = {video.name: Finding(0, {kind_of_problem(folders[video]): reason}) for video, reason in bad}
    look = partial(inspect, pose=pose, full=args.full)
    with contextlib.closing(run_parallel(look, good, args.workers)) as results:
        for item, finding, error in tqdm(results, str(root), len(good), disable=None, leave=False):
            if error is not None:
                raise error
            findings[item.video.name] = finding
    return findings


def problem_names(findings: dict[str, Finding], videos: list[Video]) -> list[set[str]]:
    """The names of each video's problems, in the order of `videos`."""
    return [set(findings[video.name].problems) for video in videos]


def note_unmatched(frames: dict[str, Finding], others: dict[str, Finding], what: str) -> None:
    """Note in `others`, images of `what`, where they and the frames differ in their number."""
    for name, other in others.items():
        here, there = frames[name].num_frames, other.num_frames
        if here and there and here != there:
            other.problems["unmatched"] = f"{here} frames, {there} {what} images"
        elif here != there:
            has, lacks = ("frames", f"{what} images") if here else (f"{what} images", "frames")
            other.problems["unmatched"] = f"has {here or there} {has}, but no {lacks} to train on"


def count_unlisted(root: Path, videos: list[Video]) -> int:
    """Number of folders of other videos than these, `VIDEO` or `CLASS/VIDEO`, below `root`."""
    count, listed = 0, {folder for _, folder in find_folders(root, videos) if folder}
    for folder in folders_in(root):
        if folder.name not in listed:
            inside = {f"{folder.name}/{video.name}" for video in folders_in(folder)}
            count += len(inside - listed) if inside else 1
    return count


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
    """Print the videos of each problem, at most `limit` of them."""
    for problem, meaning in PROBLEMS.items():
        details = {v.name: findings[v.name].problems[problem] for v in videos if problem in findings[v.name].problems}
        if details:
            print(f"\n{what}, {problem} ({len(details)}): {meaning}")
            lines = [f"  {name}: {detail}" for name, detail in details.items()]
            print_first(lines, "--all names all", limit, sys.stdout)


def print_next_steps(args: Namespace, split: Split, problems: dict[str, list], unlisted: bool = False) -> None:
    """Print what is left to do, given the names of each video's `problems` in each of the roots."""
    lists = Lists(args.ucf_list, args.split, args.class_index, args.val_list)
    roots = {FRAMES: args.frames, POSE_FLOW: args.pose_flow, FLOW: args.flow}
    problems = dict(problems)
    u, v = (problems.pop(part, None) for part in FLOW_PARTS)
    if u is not None and v is not None:
        problems[FLOW] = [one | other for one, other in zip(u, v, strict=True)]
    streams = [name for name, (_, what) in SCRIPTS.items() if what in problems]
    if args.pose_flow.is_dir() and not frame_index.looks_like_pose_flow(args.pose_flow):  # images only
        streams = [name for name in streams if name != "skeleton"]
    listed = sum(map(len, (split.train, split.test, split.val)))
    records = {name: find_run(args.record, name, lists, listed) for name in streams}
    ucf101 = set(split.classes) <= set(read_class_index(UCF101_CLASSES))
    places = [args.ucf_list.parent / "videos", *(Path(place) for place in ("data/UCF-101", "UCF-101") if ucf101)]
    videos = next((str(place) for place in places if place.is_dir()), None)
    steps = next_steps(roots, problems, lists, records, videos, ucf101, unlisted, not args.from_keypoints)
    if steps:
        print("\nnext steps")
    for number, (what, commands) in enumerate(steps, 1):
        print(f"{number}. {what}")
        for command in commands:
            print(f"   {command}")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Check and report; returns 0 if nothing is wrong, 1 if there are problems."""
    args, started = get_args_parser().parse_args(argv), time.time()
    split = read_split(args.ucf_list, args.split, args.class_index, args.val_list)
    lists = {"train": split.train, "test": split.test} | ({"val": split.val} if split.val else {})
    videos = [video for part in lists.values() for video in part]
    roots = {FRAMES: args.frames, POSE_FLOW: args.pose_flow}
    if args.flow:
        roots |= {what: args.flow / part for what, part in zip(FLOW_PARTS, PARTS, strict=True)}
    elif args.only == "flow":
        raise UserError("--only flow: where it lies is not given; add --flow DIR")
    if args.only:
        roots = {what: root for what, root in roots.items() if what.split(" ")[0] == args.only.split("-")[0]}
    absent = {what for what, root in roots.items() if not root.is_dir() or not any(root.iterdir())}
    try:
        check_roots(roots)
    except UserError as error:
        status = fail(str(error))
        if not absent:
            return status
    found = {what: examine(root, videos, args, what == POSE_FLOW) for what, root in roots.items() if what not in absent}
    if absent:
        lacking = dict.fromkeys((video.name for video in videos), Finding(0, {"missing": ""}))
        names = {what: problem_names(found.get(what, lacking), videos) for what in roots}
        print_next_steps(args, split, names, FRAMES in found and count_unlisted(args.frames, videos) > 0)
        return status
    for what in found if not args.only else ():
        note_unmatched(found[FRAMES], found[what], "pose" if what == POSE_FLOW else what)
    print_counts(found, lists)
    for what, findings in found.items():
        print_videos(what, findings, videos, None if args.all else NAMED)
    print()
    others = {}
    for what, root in roots.items():
        others[what] = unlisted = count_unlisted(root, videos)
        if unlisted:
            print(f"{root}: {unlisted} more folders, which these lists do not name")
    empty = [name for name, finding in found.get(POSE_FLOW, {}).items() if finding.nobody]
    if empty:
        count = f"{len(empty)} of {len(videos)} videos ({first_names(empty)})"
        print(f"{args.pose_flow}: nobody in {count}, of which poses tell nothing")
    bad = {name for findings in found.values() for name, finding in findings.items() if finding.problems}
    images = sum(finding.num_frames for findings in found.values() for finding in findings.values())
    verdict = f"{len(bad)} videos have problems" if bad else "no problems"
    print(f"{len(videos)} videos, {images} images, {time.time() - started:.0f} s: {verdict}")
    names = {what: problem_names(findings, videos) for what, findings in found.items()}
    print_next_steps(args, split, names, unlisted=bool(others.get(FRAMES)))
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
