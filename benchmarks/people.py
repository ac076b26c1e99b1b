"""Flicker and jitter of people in keypoints.npz files before and after cleaning. Prints a table.

python -m benchmarks.people ../shared/ut_interaction/keypoints --rate 30
"""

import time
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, UserError, positive, run
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints
from pose.people import clean_people, follow_people


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keypoints", type=Path, help="pose folders, VIDEO/keypoints.npz")
    parser.add_argument("--rate", type=positive, default=25.0, help="frames per second")
    return parser


def count_flicker(keypoints: Keypoints) -> int:
    """Frames whose number of people differs from that of both neighbours."""
    counts = np.bincount(keypoints.frame, minlength=keypoints.num_frames + 1)[1:]
    return int(((counts[1:-1] != counts[:-2]) & (counts[1:-1] != counts[2:])).sum())


def accelerations(keypoints: Keypoints) -> np.ndarray:
    """Second differences of the parts' paths in pixels: those found in three following frames of a track."""
    tracks, found = follow_people(keypoints), [np.zeros(0)]
    for track in np.unique(tracks):
        index = np.flatnonzero(tracks == track)
        path, steps = keypoints.keypoints[index], np.diff(keypoints.frame[index])
        second = np.diff(path[..., :2] * keypoints.frame_size[::-1], 2, axis=0)
        there = path[..., 2] > 0
        valid = there[2:] & there[1:-1] & there[:-2] & ((steps[1:] == 1) & (steps[:-1] == 1))[:, None]
        found.append(np.linalg.norm(second, axis=2)[valid])
    return np.concatenate(found)


def main(argv: list[str] | None = None) -> None:
    """Measure each kind of cleaning over all videos and print a Markdown table."""
    args = get_args_parser().parse_args(argv)
    videos = [load_keypoints(path) for path in sorted(args.keypoints.glob(f"*/{FILE_NAME}"))]
    if not videos:
        raise UserError(f"{args.keypoints}: no pose folders in it")
    frames = sum(video.num_frames for video in videos)
    print(f"{len(videos)} videos, {frames} frames\n\n| | people | flicker | acceleration, pixels | ms a frame |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for people in (None, 2):
        for rate in (None, args.rate):
            start = time.perf_counter()
            options = {"min_score": None, "max_people": people, "smooth": rate}
            cleaned = [clean_people(video, options) for video in videos]
            spent = 1000 * (time.perf_counter() - start) / frames
            name = " ".join(["--max-people 2"] * bool(people) + ["--smooth"] * bool(rate)) or "as found"
            jitter = np.concatenate([accelerations(video) for video in cleaned]).mean()
            total, flicker = sum(len(video.frame) for video in cleaned), sum(map(count_flicker, cleaned))
            print(f"| {name} | {total} | {flicker} | {jitter:.2f} | {spent:.2f} |", flush=True)


if __name__ == "__main__":
    run(main)
