"""Estimate the people of every frame: keypoints.npz in one folder for each video, pose-flow images if wanted.

python process_pose.py --frames data/jpegs_256 --out data/pose_flow
python process_pose.py --frames data/jpegs_256 --out data/pose_flow \\
    --videos UCF_list/testlist04.txt --every 3 --smooth --preview people.png
python process_pose.py --videos-in my_videos --fps 25 --out data/pose_flow
python process_pose.py --out data/pose_flow --from-keypoints
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.atomic import recover_folders, temporary_name
from common.cli import ArgumentParser, UserError, examples, positive, run, shard, whole_number
from common.frames import count_frames, find_frame_folders, has_images
from common.parallel import cores, in_shard, print_problems, run_parallel
from common.records import FrameSettings, check_made, root_record, settings_of
from dataloader.names import Video, find_videos, folder_names, is_video, normal, pose_name, stem, unique_names
from dataloader.split_train_test_video import read_entries
from pose.draw import write_preview
from pose.estimators import add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME, frames_with_people, load_keypoints
from pose.people import NOT_CLEANED, add_cleaning_arguments, cleaning_from_arguments
from pose.pipeline import PoseJob, PoseOptions, is_finished, process_videos, redraw

MORE = (
    "Finished videos are skipped, so the same command resumes a run that was stopped. Job arrays: --shard 0/8 … "
    "--shard 7/8 on as many machines with one --out; a last call without --shard does what is left and reports all."
)


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0], epilog=examples(__doc__, MORE))
    number = whole_number(1)
    group = parser.group("input and output")
    add = group.add_mutually_exclusive_group().add_argument
    add("--frames", type=Path, metavar="DIR", help="folders of frames, as extract_frames.py writes them")
    text = "videos, in place of --frames: their frames go straight to the network and are not kept"
    add("--videos-in", type=Path, metavar="DIR", help=text)
    add = group.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="where the pose folders go")
    text = "write pose-flow images beside the keypoints, 30 times their size; training draws them as it needs them"
    add("--images", action="store_true", help=text)
    add("--from-keypoints", action="store_true", help="draw the keypoints.npz files in --out, without a network")
    add("--redraw", action="store_true", help="with --from-keypoints: finished folders as well")
    add("--preview", type=Path, metavar="FILE.png", help="write 12 frames beside their poses")
    add = parser.group("which videos and frames").add_argument
    add(
        "--videos",
        type=Path,
        nargs="+",
        metavar="LIST",
        help="only these: lines CLASS/VIDEO, as in the split lists, or VIDEO",
    )
    add("--shard", type=shard, metavar="i/n", help="only part i of n, from 0; a hash of a video's name decides")
    text = "estimate frames 1, 1+N, … and the last, interpolate others"
    add("--every", type=number, metavar="N", default=1, help=text)
    add = parser.group("machine").add_argument
    add("--batch-size", type=number, metavar="N", default=8, help="frames that a torch network takes at once")
    text = "threads beside the network; with --from-keypoints, processes that draw (0: none)"
    add("--workers", type=whole_number(0), metavar="N", default=min(8, cores()), help=text)
    text = "cleaning of people (those found are kept in keypoints_raw.npz)"
    add_cleaning_arguments(parser.add_argument_group(text))
    add = parser.add_argument_group("frames of --videos-in, as those of extract_frames.py").add_argument
    add("--fps", type=positive, metavar="N", help="N a second by time stamps (default: all)")
    text = "scale to this short side, the other to match (default: 256)"
    add("--short-side", type=number, metavar="PIXELS", help=text)
    add_estimator_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the script; 1 if a video failed."""
    args = get_args_parser().parse_args(argv)
    check_arguments(args)
    recover_pose_folders(args.out)
    made = frames_made(args)
    if made:
        check_made(args.out, {"frames": asdict(made)})
    videos, failures = select_videos(args)
    work = redraw_videos if args.from_keypoints else estimate_videos
    try:
        worked_on = work(videos, args)
    except (KeyboardInterrupt, SystemExit):
        print("stopped; the same command resumes here", file=sys.stderr)
        raise
    failures += [str(error) for error in worked_on.values() if error]
    finished = [video for video in videos if not worked_on.get(video)]
    lines = [f"failed: {failure}" for failure in failures]
    print_problems(lines, args.out, "failed", args.shard)
    skipped = len(videos) - len(worked_on)
    print_report(len(finished) - skipped, skipped, finished, len(failures))
    if args.preview and finished:
        write_preview(args.preview, [(video.name, video.frames, video.poses) for video in finished])
    return 1 if failures else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    if args.frames is None and (args.preview or not (args.videos_in or args.from_keypoints)):
        raise UserError("--frames DIR is missing, the folders of frames; or, without --preview, --videos-in DIR")
    if not args.videos_in and (args.fps or args.short_side):
        raise UserError("--fps and --short-side are for --videos-in; frames are as extract_frames.py made them")
    if args.frames is not None and args.frames.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out}: this is the folder of frames; pose images need one of their own")


def frames_made(args: argparse.Namespace) -> FrameSettings | None:
    """How the frames are made, or were; None if nothing tells."""
    if args.videos_in:
        return FrameSettings(fps=args.fps, short_side=args.short_side or FrameSettings().short_side)
    return settings_of(root_record(args.frames)) if args.frames else None


def recover_pose_folders(out: Path) -> None:
    """Recover what killed runs left in `out` and in its folders of classes."""
    for folder in (out, *out.glob("[!.]*")):
        if folder.is_dir() and not (folder / FILE_NAME).exists():
            recover_folders(folder)


# ---- which videos ----


def select_videos(args: argparse.Namespace) -> tuple[list[PoseJob], list[str]]:
    """The videos that the options ask for, ordered by name, and a line for each listed one that is not there."""
    root = args.videos_in or (args.out if args.from_keypoints else args.frames)
    sources = find_videos(root) if args.videos_in else {name: root / name for name in find_frame_folders(root)}
    pictures = any(map(has_images, sources.values()))
    if args.frames == root and not pictures and any(map(is_video, [*root.glob("*"), *root.glob("*/*")])):
        raise UserError(f"--frames {root}: holds videos; give them with --videos-in, or see extract_frames.py")
    if not sources:
        raise UserError(f"{root}: no folders of videos in it; give the folder that holds them")
    names, failures = listed_folders(args.videos, root, sources, args.shard) if args.videos else (sources, [])
    frames_of = {}
    if args.from_keypoints and args.frames:
        frames_of = {pose_name(folder): args.frames / folder for folder in find_frame_folders(args.frames)}
    videos: dict[str, PoseJob] = {}
    for folder in names:
        name = folder if args.from_keypoints else pose_name(folder)
        if name in videos:
            both = f"{videos[name].frames} and {sources[folder]}"
            raise UserError(f"{both} both belong to {args.out / name}; remove one of them")
        frames = frames_of.get(normal(name)) or frames_of.get(pose_name(name)) or sources[folder]
        videos[name] = PoseJob(name, frames, args.out / name)
    return [videos[name] for name in sorted(videos) if in_shard(name, args.shard)], failures


def listed_folders(
    files: Sequence[Path], root: Path, names: Iterable[str], shard: str | None
) -> tuple[list[str], list[str]]:
    """Those of the folders `names` that the lists have, and a line for each of their videos without a folder."""
    entries = [entry for file in files for entry in read_entries(file)]
    listed = unique_names([Video(stem(entry.path), 0, entry.class_name, entry.path) for entry in entries])
    there = {normal(name): name for name in names}
    found, failures = [], []
    for video in dict.fromkeys(listed):
        spellings = map(normal, (video.path, *folder_names(video)))
        name = next((there[spelling] for spelling in spellings if spelling in there), None)
        if name is not None:
            found.append(name)
        elif in_shard(video.name, shard):
            failures.append(f"{root / next(folder_names(video))}: not there, but {video.path} is listed")
    return list(dict.fromkeys(found)), failures


# ---- both return the videos that were not finished, and of each that failed why ----


def estimate_videos(videos: list[PoseJob], args: argparse.Namespace) -> dict[PoseJob, UserError | None]:
    """Estimate and draw every video whose pose folder is not complete."""
    if args.model:  # before weights are downloaded
        check_made(args.out, {"people": {"model": args.model}})
    estimator = estimator_from_arguments(args, root_record(args.out).get("people"))
    cleaning = cleaning_from_arguments(args, float(frame_rate(args)))
    settings = estimator.settings | {"every": args.every} | (cleaning or NOT_CLEANED)
    check_made(args.out, {"people": settings})
    args.out.mkdir(parents=True, exist_ok=True)
    todo: dict[PoseJob, int] = {}
    for video in videos:
        count = 0
        with contextlib.suppress(UserError):  # the pipeline meets it again, and reports it
            count = 0 if args.videos_in else count_frames(video.frames)
        if not (count or args.videos_in) or not is_finished(video.poses, count, args.images):
            todo[video] = count
    damaged: dict[PoseJob, str] = {}
    made = frames_made(args) or FrameSettings()
    options = PoseOptions(settings, args.batch_size, args.every, cleaning, args.images, args.workers, made)
    total = None if args.videos_in and todo else sum(todo.values())
    with (
        progress_bar(total) as bar,
        contextlib.closing(process_videos(estimator, todo, options, damaged, bar.update)) as results,
    ):
        worked_on = dict(results)
    lines = [f"kept: {video.frames}: {damaged[video]}" for video in todo if video in damaged and not worked_on[video]]
    print_problems(lines, args.out, "kept", args.shard)
    return worked_on


def redraw_videos(videos: list[PoseJob], args: argparse.Namespace) -> dict[PoseJob, UserError | None]:
    """Draw the images of every pose folder that lacks some, or of all with --redraw or options that clean people."""
    cleaning = cleaning_from_arguments(args, float(frame_rate(args)))
    todo = [video for video in videos if args.redraw or cleaning or not is_finished(video.poses)]
    worked_on: dict[PoseJob, UserError | None] = {}
    scratch = temporary_name(args.out / "scratch")
    results = run_parallel(partial(redraw, scratch=scratch, cleaning=cleaning), todo, args.workers)
    try:
        with progress_bar(len(todo), " videos") as bar, contextlib.closing(results):
            for video, _, error in results:
                if isinstance(error, OSError):
                    raise error
                worked_on[video] = error
                bar.update()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # also of processes that were ended
    return worked_on


def frame_rate(args: argparse.Namespace) -> Fraction:
    """Frames per second of the frames, or of those that the pose folders were made from."""
    return (frames_made(args) or settings_of(root_record(args.out)) or FrameSettings()).per_second()


# ---- what is shown ----


def progress_bar(total: int | None, unit: str = " frames") -> tqdm:
    """A bar, of an unknown `total` if None; in log files a line now and then."""
    mininterval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=total, unit=unit, smoothing=0.05, mininterval=mininterval, disable=total == 0)


def print_report(done: int, skipped: int, finished: list[PoseJob], failed: int) -> None:
    """Print the closing table over the videos done, skipped and failed."""
    frames = empty = people = 0
    for video in finished:
        keypoints = load_keypoints(video.poses / FILE_NAME)
        frames += keypoints.num_frames
        empty += keypoints.num_frames - frames_with_people(keypoints)
        people += len(keypoints.frame)
    counts = {"videos done": done, "videos skipped (finished)": skipped, "videos failed": failed, "frames": frames}
    for name, count in counts.items():
        print(f"{name:<25} {count:>9}")
    print(f"frames with no person     {empty:>9}" + f" ({100 * empty / max(frames, 1):.1f} %)" * (frames > 0))
    print(f"people per frame, mean    {people / max(frames, 1):>9.2f}", flush=True)


if __name__ == "__main__":
    run(main)
