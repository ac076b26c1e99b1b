"""People followed from frame to frame, and which of them are the main ones."""

import numpy as np

from pose.interpolation import match_people
from pose.keypoints import Keypoints

MAX_GAP = 5  # frames that a person may be lost for: 0.2 s at 25 frames per second
MIN_SEEN = 3  # frames in which a person must be found at all


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
