"""People of the frames between two that were estimated."""

import numpy as np


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
