"""People from frame to frame: matched, interpolated, followed, chosen, and cleaned.

Where people are followed, each person of a video's `Keypoints` has the number of a track, int32 (P,).
"""

import argparse
from collections.abc import Mapping

import numpy as np

from common.cli import ArgumentGroup, not_negative, whole_number
from pose.keypoints import Keypoints, people_of_frame
from pose.paf import MIN_PARTS

MAX_GAP = 5  # frames that a person may be lost for: 0.2 s at 25 frames per second
MIN_SEEN = 3  # frames in which a person must be found at all
BOX_MARGIN = 0.25  # of the longer side of what the main people fill
MIN_BOX = 0.2  # of the frame's short side: people who are farther away stay small
MIN_CUTOFF = 1.5  # Hz: the lower, the less a still body trembles
BETA = 15.0  # Hz per (short side / s): the higher, the less a fast part lags behind
SPEED_CUTOFF = 1.0  # Hz
NOT_CLEANED = dict.fromkeys(("min_score", "max_people", "smooth"))


# ---- from one frame to another ----


def interpolate_people(
    first: np.ndarray, second: np.ndarray, fraction: float, frame_size: tuple[int, int]
) -> np.ndarray:
    """People `fraction` (0..1) of the way from one frame's people (P, 18, 3) to another's: float32 (R, 18, 3).

    Parts of the same person (see `match_people`) move on straight lines, score included. A part or a person that
    only one of the two frames has is kept in that frame's half of the time, where it was.
    """
    near = 0 if fraction < 0.5 else 1
    pairs = match_people(first, second, frame_size)
    one, other = first[[pair[0] for pair in pairs]], second[[pair[1] for pair in pairs]]
    both = (one[..., 2:] > 0) & (other[..., 2:] > 0)
    mixed = one * np.float32(1 - fraction) + other * np.float32(fraction)
    alone = np.delete((first, second)[near], [pair[near] for pair in pairs], axis=0)
    return np.concatenate((np.where(both, mixed, (one, other)[near]), alone))


def match_people(first: np.ndarray, second: np.ndarray, frame_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Pairs (index in `first`, index in `second`), nearest first, each person in one pair at most.

    The distance of two people is the mean over the parts that both have; it must be less than half of the
    larger one's extent.
    """
    both = (first[:, None, :, 2] > 0) & (second[None, ..., 2] > 0)
    scale = np.array(frame_size[::-1], np.float32)
    distance = np.linalg.norm(first[:, None, :, :2] * scale - second[None, ..., :2] * scale, axis=-1)
    mean = np.where(both, distance, 0).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    larger = np.maximum(person_extents(first, frame_size)[:, None], person_extents(second, frame_size))
    allowed = both.any(axis=2) & (mean < larger / 2)
    pairs = {}
    for index in np.argsort(np.where(allowed, mean, np.inf), axis=None, kind="stable")[: allowed.sum()]:
        one, other = divmod(int(index), len(second))
        if one not in pairs and other not in pairs.values():
            pairs[one] = other
    return list(pairs.items())


def person_extents(people: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Diagonal of the box around the found parts of each person (P, 18, 3), in pixels: (P,)."""
    found = people[..., 2:] > 0
    low = np.where(found, people[..., :2], np.inf).min(axis=1)
    high = np.where(found, people[..., :2], -np.inf).max(axis=1)
    return np.linalg.norm(np.where(high >= low, high - low, 0) * frame_size[::-1], axis=1)


def person_scores(people: np.ndarray) -> np.ndarray:
    """Mean score of the parts that were found of each person (P, 18, 3): (P,), 0 without any."""
    found = people[..., 2] > 0
    return people[..., 2].sum(axis=1, where=found) / np.maximum(found.sum(axis=1), 1)


# ---- through a video ----


class Follower:
    """Numbers the people of following frames by their tracks, from 0 in the order in which tracks begin.

    A track is one person in following frames; it goes on after up to `max_gap` frames without that person. Frame by
    frame, people are matched with the tracks by `match_people`, first with those that were seen last, as in the
    matching cascade of Deep SORT (arXiv 1703.07402).
    """

    def __init__(self, frame_size: tuple[int, int], max_gap: int = MAX_GAP):
        self.frame_size, self.max_gap, self.begun = frame_size, max_gap, 0
        self.last: dict[int, tuple[int, np.ndarray]] = {}  # track → when it was seen last, and the person

    def follow(self, frame: int, people: np.ndarray) -> np.ndarray:
        """The tracks, int32 (P,), of the people (P, 18, 3) of a `frame` after those before."""
        tracks = np.full(len(people), -1, np.int32)
        self.last = {track: seen for track, seen in self.last.items() if frame - seen[0] <= self.max_gap + 1}
        for when in sorted({seen for seen, _ in self.last.values()}, reverse=True):
            candidates = [track for track, (seen, _) in self.last.items() if seen == when]
            free = np.flatnonzero(tracks < 0)
            before = np.stack([self.last[track][1] for track in candidates])
            for one, other in match_people(before, people[free], self.frame_size):
                tracks[free[other]] = candidates[one]
        new = tracks < 0
        tracks[new] = np.arange(self.begun, self.begun + new.sum())
        self.begun += int(new.sum())
        self.last |= {track: (frame, person) for track, person in zip(tracks.tolist(), people, strict=True)}
        return tracks


def follow_people(keypoints: Keypoints, max_gap: int = MAX_GAP) -> np.ndarray:
    """The track of each person of a video, int32 (P,), by a `Follower`."""
    follower = Follower(keypoints.frame_size, max_gap)
    frames = np.unique(keypoints.frame).tolist()
    tracks = [follower.follow(frame, people_of_frame(keypoints, frame)) for frame in frames]
    return np.concatenate([np.zeros(0, np.int32), *tracks])


def main_tracks(keypoints: Keypoints, tracks: np.ndarray) -> np.ndarray:
    """The numbers of the `tracks` of a video's people, int32 (T,), the main person's first.

    A track counts as much as the sum over its frames of the person's size × score.
    """
    sizes = person_extents(keypoints.keypoints, keypoints.frame_size) / min(keypoints.frame_size)
    return np.argsort(-np.bincount(tracks, sizes * person_scores(keypoints.keypoints)), kind="stable").astype(np.int32)


def main_people(keypoints: Keypoints, tracks: np.ndarray, count: int) -> np.ndarray:
    """Index of the `count` main people of each frame: those whose tracks come first among `main_tracks`.

    Whom a frame shows is so decided over the whole video, and a score that wavers lets nobody flicker in and out.
    """
    rank = np.argsort(main_tracks(keypoints, tracks))[tracks]
    order = np.lexsort((rank, keypoints.frame))
    frame = keypoints.frame[order]
    place = np.arange(len(order)) - np.searchsorted(frame, frame)  # within its frame, from 0
    return np.sort(order[place < count])


def main_paths(keypoints: Keypoints, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `main_people` of each frame as paths, float32 (count, num_frames, 18, 3), 0 where there is nobody.

    Tracks of fewer than `MIN_SEEN` frames are left out. A track stays on one path, the first that is free, the main
    person's on path 0; so equal keypoints give equal paths. Gaps of a track are filled (`fill_gaps`) where its path is
    free. Also returns the track on each path, int32 (count, num_frames), -1: nobody.
    """
    tracks = follow_people(keypoints)
    kept = main_people(keypoints, tracks, count)
    paths = np.zeros((count, keypoints.num_frames, *keypoints.keypoints.shape[1:]), np.float32)
    whose = np.full(paths.shape[:2], -1, np.int32)
    placed = []
    for track in main_tracks(keypoints, tracks).tolist():
        index = kept[tracks[kept] == track]
        if (tracks == track).sum() < min(MIN_SEEN, keypoints.num_frames) or not len(index):
            continue
        frames = keypoints.frame[index] - 1
        free = whose[:, frames] < 0
        whole = np.flatnonzero(free.all(axis=1))
        place = np.repeat(whole[:1], len(frames)) if len(whole) else free.argmax(axis=0)
        whose[place, frames] = track
        placed.append((track, index, place))
    for track, index, place in placed:  # when all that were found have their places
        person, span = filled_track(keypoints, index)
        place = place[np.searchsorted(keypoints.frame[index] - 1, span, side="right") - 1]  # in a gap as before it
        new = (whose[place, span] < 0) & (person[..., 2] > 0).any(axis=1)
        whose[place[new], span[new]] = track
        here = whose[place, span] == track
        paths[place[here], span[here]] = person[here]
    return paths, whose


def box_of_paths(paths: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """The square about the main people of a video, float32 (3,): x and y of its centre, and its side, in pixels.

    It holds all but a hundredth of their parts on each side over the whole video, and a margin. `paths` are those of
    `main_paths`; where nobody is, it is about the whole frame.
    """
    found = paths[paths[..., 2] > 0][:, :2] * frame_size[::-1]
    if not len(found):
        return np.array((frame_size[1] / 2, frame_size[0] / 2, max(frame_size)), np.float32)
    low, high = np.percentile(found, (1, 99), axis=0)
    side = max((high - low).max() * (1 + BOX_MARGIN), MIN_BOX * min(frame_size))
    return np.array((*(low + high) / 2, side), np.float32)


def crop_people(keypoints: Keypoints, box: np.ndarray) -> Keypoints:
    """The people of a video as a crop of its frames shows them, with coordinates in that `box` of `box_of_paths`."""
    x, y, side = map(float, box)
    people = keypoints.keypoints.copy()
    people[..., 0] = (people[..., 0] * keypoints.frame_size[1] - x) / side + 0.5
    people[..., 1] = (people[..., 1] * keypoints.frame_size[0] - y) / side + 0.5
    people[people[..., 2] == 0] = 0
    whole = max(round(side), 1)
    return Keypoints(people, keypoints.frame, keypoints.num_frames, (whole, whole))


def filled_track(keypoints: Keypoints, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The people `index` of one track as a path (T, 18, 3) whose gaps are filled, and its frames (T,), from 0."""
    frames = keypoints.frame[index] - 1
    path = np.zeros((frames[-1] - frames[0] + 1, *keypoints.keypoints.shape[1:]), np.float32)
    path[frames - frames[0]] = keypoints.keypoints[index]
    return fill_gaps(path), np.arange(frames[0], frames[-1] + 1)


def fill_gaps(path: np.ndarray, max_gap: int = MAX_GAP) -> np.ndarray:
    """A person's path (T, 18, 3) in which a part, where missing for up to `max_gap` frames, moves straight on."""
    filled, times = path.copy(), np.arange(len(path))
    for part in range(path.shape[1]):
        seen = np.flatnonzero(path[:, part, 2] > 0)
        if len(seen) < 2:
            continue
        after = np.searchsorted(seen, times).clip(1, len(seen) - 1)
        gap = seen[after] - seen[after - 1] - 1
        inside = (times > seen[after - 1]) & (times < seen[after]) & (gap <= max_gap)
        for value in range(3):
            filled[inside, part, value] = np.interp(times[inside], seen, path[seen, part, value])
    return filled


# ---- cleaned ----


def clean_people(keypoints: Keypoints, cleaning: dict) -> Keypoints:
    """The people that the options `min_score`, `max_people` and `smooth` (a rate in frames per second) leave.

    Those whose `person_scores` are below `min_score` go first, then paths are smoothed, then the main people chosen;
    None in place of a value leaves it out.
    """
    if cleaning["min_score"]:
        keypoints = select_people(keypoints, person_scores(keypoints.keypoints) >= cleaning["min_score"])
    if not len(keypoints.frame) or not (cleaning["smooth"] or cleaning["max_people"]):
        return keypoints
    tracks = follow_people(keypoints)
    if cleaning["smooth"]:
        keypoints, tracks = smooth_people(keypoints, tracks, cleaning["smooth"])
    if cleaning["max_people"]:
        keypoints = select_people(keypoints, main_people(keypoints, tracks, cleaning["max_people"]))
    return keypoints


def select_people(keypoints: Keypoints, which: np.ndarray) -> Keypoints:
    """Some people of a video: an index or a mask (P,)."""
    people, frame = keypoints.keypoints[which], keypoints.frame[which]
    return Keypoints(people, frame, keypoints.num_frames, keypoints.frame_size)


def smooth_people(keypoints: Keypoints, tracks: np.ndarray, rate: float) -> tuple[Keypoints, np.ndarray]:
    """The people of a video without gaps, brief finds and jitter, and their tracks; `rate`: frames per second.

    People found in fewer than 3 frames go (in all frames of a shorter video they stay); gaps of up to 5 frames are
    filled, where 4 parts of the person are then there; every part's path goes through `one_euro`. The main person comes
    last in each frame, so that it is drawn on top.
    """
    people, frames, followed = [], [], []
    for track in main_tracks(keypoints, tracks)[::-1].tolist():
        index = np.flatnonzero(tracks == track)
        if len(index) < min(MIN_SEEN, keypoints.num_frames):
            continue
        path, span = filled_track(keypoints, index)
        shown = ((path[..., 2] > 0).sum(axis=1) >= MIN_PARTS) | np.isin(span, keypoints.frame[index] - 1)
        people.append(one_euro(path, rate, keypoints.frame_size)[shown])
        frames.append(span[shown] + 1)
        followed.append(np.full(shown.sum(), track, np.int32))
    if not people:
        return select_people(keypoints, np.zeros(0, int)), np.zeros(0, np.int32)
    frame = np.concatenate(frames).astype(np.int32)
    order = np.argsort(frame, kind="stable")
    smooth = Keypoints(np.concatenate(people)[order], frame[order], keypoints.num_frames, keypoints.frame_size)
    return smooth, np.concatenate(followed)[order]


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
    """The options of `clean_people` in frames that come at `rate` a second, left open as in `others`; None if none."""
    given = {name: getattr(args, name) for name in NOT_CLEANED}
    cleaning = {name: (others.get(name) if value is None else value) or None for name, value in given.items()}
    cleaning["smooth"] = rate if cleaning["smooth"] else None
    return cleaning if any(cleaning.values()) else None
