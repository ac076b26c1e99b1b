"""Keypoints of a video cleaned in time: short gaps filled, brief finds dropped, jitter smoothed."""

import argparse
from collections.abc import Mapping

import numpy as np

from common.cli import ArgumentGroup, not_negative, whole_number
from pose.keypoints import Keypoints
from pose.tracking import MIN_SEEN, drop_weak_people, fill_gaps, follow_people, keep_main_people, main_tracks

MIN_PARTS = 4  # of a person in a filled frame, as in grouping
MIN_CUTOFF = 1.5  # Hz: the lower, the less a still body trembles
BETA = 15.0  # Hz per (short side / s): the higher, the less a fast part lags behind
SPEED_CUTOFF = 1.0  # Hz
NOT_CLEANED = dict.fromkeys(("min_score", "max_people", "smooth"))


def smooth_people(keypoints: Keypoints, rate: float = 25) -> Keypoints:
    """The people of a video without gaps, brief finds and jitter; `rate` is in frames per second.

    People are followed (`follow_people`); those found in fewer than 3 frames go (in all frames of a shorter video
    they stay); a part that is missing for up to 5 frames is put on a straight line between its neighbours in time,
    and so are people; then every part's path goes through `one_euro`. The main person comes last in each frame, so
    that it is drawn on top.
    """
    tracks = follow_people(keypoints)
    paths = []
    for track in main_tracks(keypoints, tracks)[::-1].tolist():
        index = np.flatnonzero(tracks == track)
        if len(index) < min(MIN_SEEN, keypoints.num_frames):
            continue
        first, last = keypoints.frame[index[[0, -1]]].tolist()
        path = np.zeros((last - first + 1, *keypoints.keypoints.shape[1:]), np.float32)
        path[keypoints.frame[index] - first] = keypoints.keypoints[index]
        path = one_euro(fill_gaps(path), rate, keypoints.frame_size)
        there = (path[..., 2] > 0).sum(axis=1) >= MIN_PARTS
        there[keypoints.frame[index] - first] = True
        paths.append((path[there], np.flatnonzero(there) + first))
    people, frame = (np.concatenate(parts) for parts in zip(*paths, strict=True)) if paths else ((), ())
    people = np.reshape(people, (-1, *keypoints.keypoints.shape[1:])).astype(np.float32)
    order = np.argsort(frame, kind="stable")
    frame = np.asarray(frame, np.int32)[order]
    return Keypoints(people[order], frame, keypoints.num_frames, keypoints.frame_size)


def one_euro(path: np.ndarray, rate: float, frame_size: tuple[int, int]) -> np.ndarray:
    """A person's path (T, 18, 3) through the One Euro filter (Casiez et al., CHI 2012), part by part.

    A causal low-pass of first order whose cutoff grows with the part's speed, in short sides of the frame per second:
    a still part is smoothed much, a fast one hardly, so it lags little. After a frame without the part it starts anew.
    """
    scale = np.array(frame_size[::-1]) / min(frame_size)
    smoothed = path.copy()
    position, speed = path[0, :, :2].astype(float), np.zeros((path.shape[1], 2))
    for before, now, out in zip(path[:-1], path[1:], smoothed[1:], strict=True):
        goes_on = ((before[:, 2] > 0) & (now[:, 2] > 0))[:, None]
        raw = now[:, :2].astype(float)
        share = _share(SPEED_CUTOFF, rate)
        speed = np.where(goes_on, speed + share * ((raw - position) * rate - speed), 0)
        cutoff = MIN_CUTOFF + BETA * np.linalg.norm(speed * scale, axis=1, keepdims=True)
        position = np.where(goes_on, position + _share(cutoff, rate) * (raw - position), raw)
        out[:, :2] = position
    return smoothed


def _share(cutoff: float, rate: float):
    """Share of a new value in the output of a low-pass of first order."""
    return 1 / (1 + rate / (2 * np.pi * cutoff))


# ---- options of the scripts ----


def add_cleaning_arguments(parser: ArgumentGroup) -> None:
    """Add the options that `cleaning_from_arguments` reads to a parser or one of its groups."""
    add = parser.add_argument
    text = "drop people whose found parts score less than X on average"
    add("--min-score", type=not_negative, metavar="X", help=text)
    text = "keep the N main people in each frame: by size x score, summed over the frames in which they are followed"
    add("--max-people", type=whole_number(1), metavar="N", help=text)
    text = "fill gaps of up to 5 frames, drop people seen in fewer than 3, smooth jitter (One Euro filter)"
    add("--smooth", action=argparse.BooleanOptionalAction, help=text)


def cleaning_from_arguments(args: argparse.Namespace, rate: float, others: Mapping = NOT_CLEANED) -> dict | None:
    """How people are to be cleaned, for `clean_people`, in frames that come at `rate` a second; None if not at all.

    What the options leave open is as in `others`.
    """
    given = {name: getattr(args, name) for name in NOT_CLEANED}
    cleaning = {name: (others.get(name) if value is None else value) or None for name, value in given.items()}
    cleaning["smooth"] = rate if cleaning["smooth"] else None
    return cleaning if any(cleaning.values()) else None


def clean_people(keypoints: Keypoints, cleaning: dict) -> Keypoints:
    """The people that the options `min_score`, `max_people` and `smooth` (a rate in frames per second) leave.

    Weak people go first, then paths are smoothed, then the main people chosen; None in place of a value leaves it out.
    """
    if cleaning["min_score"]:
        keypoints = drop_weak_people(keypoints, cleaning["min_score"])
    if cleaning["smooth"] and len(keypoints.frame):
        keypoints = smooth_people(keypoints, cleaning["smooth"])
    if cleaning["max_people"] and len(keypoints.frame):
        keypoints = keep_main_people(keypoints, cleaning["max_people"])
    return keypoints
