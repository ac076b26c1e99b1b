"""People of the frames between two that were estimated."""

import numpy as np


def interpolate_people(
    first: np.ndarray, second: np.ndarray, fraction: float, frame_size: tuple[int, int]
) -> np.ndarray:
    """People `fraction` (0..1) of the way from one frame's people (P, 18, 3) to another's: float32 (R, 18, 3).

    Two people are the same person if they are near each other (see `match_people`). Their parts move on
    straight lines, score included; a part that only one of the two frames has is kept in that frame's half of
    the time, where it was. So is a person who is in one frame only.
    """
    near = 0 if fraction < 0.5 else 1
    weights = np.float32(1 - fraction), np.float32(fraction)
    result, matched = [], (set(), set())
    for one, other in match_people(first, second, frame_size):
        matched[0].add(one)
        matched[1].add(other)
        pair = first[one], second[other]
        both = (pair[0][:, 2] > 0) & (pair[1][:, 2] > 0)
        mixed = pair[0] * weights[0] + pair[1] * weights[1]
        result.append(np.where(both[:, None], mixed, pair[near]))
    result += [person for k, person in enumerate((first, second)[near]) if k not in matched[near]]
    return np.array(result, np.float32).reshape(-1, *first.shape[1:])


def match_people(first: np.ndarray, second: np.ndarray, frame_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Pairs (index in `first`, index in `second`), nearest first, each person in one pair at most.

    The distance of two people is the mean over the parts that both have; it must be less than half of the
    larger one's extent.
    """
    if not len(first) or not len(second):
        return []
    scale = np.array(frame_size[::-1], np.float32)
    points = [people[..., :2] * scale for people in (first, second)]
    found = [people[..., 2] > 0 for people in (first, second)]
    both = found[0][:, None] & found[1][None]
    distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    mean = np.where(both, distance, 0).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    extents = [_extent(*person) for person in zip(points, found, strict=True)]
    allowed = both.any(axis=2) & (mean < np.maximum(extents[0][:, None], extents[1][None]) / 2)
    pairs, used = [], (set(), set())
    for index in np.argsort(np.where(allowed, mean, np.inf), axis=None, kind="stable")[: allowed.sum()]:
        one, other = divmod(int(index), len(second))
        if one not in used[0] and other not in used[1]:
            used[0].add(one)
            used[1].add(other)
            pairs.append((one, other))
    return pairs


def _extent(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Diagonal of the box around each person's parts: (P,)."""
    low = np.where(found[..., None], points, np.inf).min(axis=1)
    high = np.where(found[..., None], points, -np.inf).max(axis=1)
    return np.linalg.norm(np.where(high >= low, high - low, 0), axis=1)
