"""People from frame to frame: matched, interpolated, followed, chosen, and cleaned."""

import argparse
from collections.abc import Mapping

import numpy as np

from common.cli import ArgumentGroup, not_negative, whole_number
from pose.keypoints import Keypoints
from pose.paf import MIN_PARTS

MAX_GAP = 5  # frames that a person may be lost for: 0.2 s at 25 frames per second
MIN_SEEN = 3  # frames in which a person must be found at all
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
    scale = np.array(frame_size[::-1], np.float32)
    points = [people[..., :2] * scale for people in (first, second)]
    found = [people[..., 2] > 0 for people in (first, second)]
    both = found[0][:, None] & found[1][None]
    distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    mean = np.where(both, distance, 0).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    extents = [_extent(*person) for person in zip(points, found, strict=True)]
    allowed = both.any(axis=2) & (mean < np.maximum(extents[0][:, None], extents[1][None]) / 2)
    pairs = {}
    for index in np.argsort(np.where(allowed, mean, np.inf), axis=None, kind="stable")[: allowed.sum()]:
        one, other = divmod(int(index), len(second))
        if one not in pairs and other not in pairs.values():
            pairs[one] = other
    return list(pairs.items())


def _extent(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Diagonal of the box around each person's parts: (P,)."""
    low = np.where(found[..., None], points, np.inf).min(axis=1)
    high = np.where(found[..., None], points, -np.inf).max(axis=1)
    return np.linalg.norm(np.where(high >= low, high - low, 0), axis=1)


# ---- through a video ----


def follow_people(keypoints: Keypoints, max_gap: int = MAX_GAP) -> np.ndarray:
    """The track of each person of a video, int32 (P,): numbers from 0 in the order in which tracks begin.

    A track is one person in following frames, at most once in each; it goes on after up to `max_gap` frames without
    that person. Frame by frame, people are matched with the tracks by `match_people`, first with those that were seen
    last, as in the matching cascade of Deep SORT (arXiv 1703.07402). Equal keypoints give equal tracks.
    """
    people, tracks = keypoints.keypoints, np.full(len(keypoints.frame), -1, np.int32)
    last: dict[int, int] = {}  # track → index of its last person
    begun = 0
    for frame in np.unique(keypoints.frame).tolist():
        here = np.flatnonzero(keypoints.frame == frame)
        last = {track: index for track, index in last.items() if frame - keypoints.frame[index] <= max_gap + 1}
        for seen in sorted({int(keypoints.frame[index]) for index in last.values()}, reverse=True):
            known = [track for track, index in last.items() if keypoints.frame[index] == seen]
            free = here[tracks[here] < 0]
            before = people[[last[track] for track in known]]
            for one, other in match_people(before, people[free], keypoints.frame_size):
                tracks[free[other]] = known[one]
        new = here[tracks[here] < 0]
        tracks[new] = np.arange(begun, begun + len(new))
        begun += len(new)
        last |= {int(tracks[index]): int(index) for index in here}
    return tracks


def main_tracks(keypoints: Keypoints, tracks: np.ndarray) -> np.ndarray:
    """Numbers of the tracks that `follow_people` found, int32 (T,), the main person first.

    A track counts as much as the sum over its frames of the person's size × score.
    """
    weights = np.bincount(tracks, person_sizes(keypoints) * person_scores(keypoints.keypoints))
    return np.argsort(-weights, kind="stable").astype(np.int32)


def keep_main_people(keypoints: Keypoints, count: int) -> Keypoints:
    """The `count` main people of each frame: those whose tracks come first among `main_tracks`, in their order.

    Whom a frame shows is so decided over the whole video, and a score that wavers lets nobody flicker in and out.
    """
    return select_people(keypoints, _main_people(keypoints, count)[0])


def main_paths(keypoints: Keypoints, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` main people of each frame as paths, float32 (count, num_frames, 18, 3), 0 where there is nobody.

    They are those of `keep_main_people` but for tracks of fewer than `MIN_SEEN` frames. A track stays on one path,
    the first that is free, the main person's on path 0; so equal keypoints give equal paths. Gaps of a track are filled
    (`fill_gaps`) where its path is free. Also returns the track on each path, int32 (count, num_frames), -1: nobody.
    """
    kept, tracks, order = _main_people(keypoints, count)
    paths = np.zeros((count, keypoints.num_frames, *keypoints.keypoints.shape[1:]), np.float32)
    whose = np.full(paths.shape[:2], -1, np.int32)
    least = min(MIN_SEEN, keypoints.num_frames)
    placed = []
    for track in order.tolist():
        index = kept[tracks[kept] == track]
        frames = keypoints.frame[index] - 1
        if (tracks == track).sum() < least or not len(index):
            continue
        free = whose[:, frames] < 0
        whole = np.flatnonzero(free.all(axis=1))
        place = np.repeat(whole[:1], len(frames)) if len(whole) else free.argmax(axis=0)
        whose[place, frames] = track
        placed.append((track, index, frames, place))
    for track, index, frames, place in placed:  # when all that were found have their places
        span = np.arange(frames[0], frames[-1] + 1)
        person = np.zeros((len(span), *paths.shape[2:]), np.float32)
        person[frames - frames[0]] = keypoints.keypoints[index]
        person = fill_gaps(person)
        place = place[np.searchsorted(frames, span, side="right") - 1]  # in a gap as before it
        new = (whose[place, span] < 0) & (person[..., 2] > 0).any(axis=1)
        whose[place[new], span[new]] = track
        here = whose[place, span] == track
        paths[place[here], span[here]] = person[here]
    return paths, whose


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


def _main_people(keypoints: Keypoints, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whom to keep (an index, ordered), the track of each person, and the tracks from the main one on."""
    tracks = follow_people(keypoints)
    ranking = main_tracks(keypoints, tracks)
    rank = np.argsort(ranking)[tracks]
    order = np.lexsort((rank, keypoints.frame))
    frame = keypoints.frame[order]
    place = np.arange(len(order)) - np.searchsorted(frame, frame)  # within its frame, from 0
    return np.sort(order[place < count]), tracks, ranking


def drop_weak_people(keypoints: Keypoints, min_score: float) -> Keypoints:
    """Those whose score, see `person_scores`, is at least `min_score`."""
    return select_people(keypoints, person_scores(keypoints.keypoints) >= min_score)


def select_people(keypoints: Keypoints, which: np.ndarray) -> Keypoints:
    """Some people of a video: an index or a mask (P,)."""
    people, frame = keypoints.keypoints[which], keypoints.frame[which]
    return Keypoints(people, frame, keypoints.num_frames, keypoints.frame_size)


def person_scores(people: np.ndarray) -> np.ndarray:
    """Mean score of the parts that were found of each person (P, 18, 3): (P,), 0 without any."""
    found = people[..., 2] > 0
    return people[..., 2].sum(axis=1, where=found) / np.maximum(found.sum(axis=1), 1)


def person_sizes(keypoints: Keypoints) -> np.ndarray:
    """Diagonal of the box around each person's parts, in short sides of the frame: (P,)."""
    people = keypoints.keypoints
    scale = np.array(keypoints.frame_size[::-1]) / min(keypoints.frame_size)
    found = people[..., 2:] > 0
    low = np.where(found, people[..., :2], np.inf).min(axis=1)
    high = np.where(found, people[..., :2], -np.inf).max(axis=1)
    return np.linalg.norm(np.where(high >= low, high - low, 0) * scale, axis=1)


# ---- cleaned in time ----


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
