"""Part heatmaps and part affinity fields (PAFs) to people: Cao et al., arXiv 1611.08050."""

import numpy as np

from pose.skeleton import LIMB_PAFS, LIMBS, NUM_PAFS, NUM_PARTS

UPSAMPLING = 8
PART_THRESHOLD = 0.1
LIMB_POINTS = 10
POINT_THRESHOLD = 0.05
MIN_POINTS = 7
MIN_PARTS = 4
MIN_MEAN_SCORE = 0.3
# Bounds the work on maps that no network gives, such as noise: more candidates of a part are not kept.
MAX_CANDIDATES = 128

_RADIUS = 2
_PARTS_A, _PARTS_B = np.array(LIMBS).T
_PAF_X, _PAF_Y = np.array(LIMB_PAFS).T
_STEPS = np.arange(LIMB_POINTS)
# Only the limbs of the skeleton's tree start a person; the two from shoulder to ear close loops in it.
_TREE_LIMBS = NUM_PARTS - 1


def _cubic_matrix(length: int, factor: int) -> np.ndarray:
    """Bicubic up-sampling (a = -0.75, borders repeated) of `length` samples as a (length·factor, length) matrix."""
    positions = (np.arange(length * factor) + 0.5) / factor - 0.5
    first = np.floor(positions).astype(int)
    matrix = np.zeros((length * factor, length))
    for offset in (-1, 0, 1, 2):
        d = np.abs(positions - first - offset)
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        np.add.at(
            matrix, (np.arange(len(positions)), (first + offset).clip(0, length - 1)), np.where(d <= 1, near, far)
        )
    return matrix.astype(np.float32)


_UPSAMPLE = _cubic_matrix(2 * _RADIUS + 1, UPSAMPLING)


def group_people(heatmaps: np.ndarray, pafs: np.ndarray) -> np.ndarray:
    """Find people in a network's heatmaps (H, W, 19) and PAFs (H, W, 38): float32 (P, 18, 3).

    Of each part x and y are in [0, 1] of the maps' width and height; its score is the heatmap's refined peak,
    0 if the part was not found. Parts are the peaks of the heatmaps, limbs join two of them along the PAFs,
    and limbs that share a part make a person. Raises `ValueError` on numbers that are not finite.
    """
    heatmaps, pafs = np.asarray(heatmaps, np.float32), np.asarray(pafs, np.float32)
    if not (np.isfinite(heatmaps.sum()) and np.isfinite(pafs.sum())):
        raise ValueError("heatmaps and PAFs must be finite")
    part, x, y, score = find_parts(heatmaps)
    people = np.array(assemble(find_limbs(pafs, part, x, y), score.tolist()), int).reshape(-1, NUM_PARTS)
    height, width = heatmaps.shape[:2]
    values = np.stack((x / (width * UPSAMPLING), y / (height * UPSAMPLING), score), axis=1).astype(np.float32)
    result = np.zeros((len(people), NUM_PARTS, 3), np.float32)
    result[people >= 0] = values[people[people >= 0]]
    return result


def find_parts(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Peaks of the 18 part heatmaps: part, x, y (whole pixels of the maps up-sampled by 8) and score, each (K,).

    A peak is above 0.1 and not below its 4 neighbours. Its 5×5 patch is up-sampled bicubically; position and
    score are those of the patch's maximum. Peaks are ordered by part, then by row and column.
    """
    height, width = heatmaps.shape[:2]
    part, rows, columns = _find_peaks(heatmaps)
    side = 2 * _RADIUS + 1
    padded = np.pad(heatmaps, ((_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)), mode="edge")
    patches = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))[rows, columns, part]
    fine = _UPSAMPLE @ patches @ _UPSAMPLE.T
    y, x = (UPSAMPLING * (start - _RADIUS)[:, None] + np.arange(UPSAMPLING * side) for start in (rows, columns))
    # No part lies outside the maps.
    fine[(y < 0) | (y >= UPSAMPLING * height)] = -np.inf
    fine.swapaxes(1, 2)[(x < 0) | (x >= UPSAMPLING * width)] = -np.inf
    every, best = np.arange(len(part)), fine.reshape(len(part), y.shape[1] * x.shape[1]).argmax(axis=1)
    row, column = np.divmod(best, x.shape[1])
    return part, x[every, column], y[every, row], fine[every, row, column]


def _find_peaks(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = heatmaps.shape[:2]
    rows, columns, part = np.nonzero(heatmaps[:, :, :NUM_PARTS] > PART_THRESHOLD)
    value = heatmaps[rows, columns, part]
    keep = np.ones(len(part), bool)
    for step_y, step_x in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        near_y, near_x = (rows + step_y).clip(0, height - 1), (columns + step_x).clip(0, width - 1)
        keep &= value >= heatmaps[near_y, near_x, part]
    rows, columns, part, value = rows[keep], columns[keep], part[keep], value[keep]
    order = np.lexsort((-value, part))
    rank = np.arange(len(part)) - np.searchsorted(part[order], part[order])
    order = np.sort(order[rank < MAX_CANDIDATES])
    order = order[np.argsort(part[order], kind="stable")]
    return part[order], rows[order], columns[order]


def find_limbs(pafs: np.ndarray, part: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[list[tuple]]:
    """Join peaks to limbs: for each of the 19 limbs a list of (peak of its first part, of its second, score).

    `part`, `x` and `y` are as `find_parts` gives them. A candidate's score is the mean over 10 points along it
    of the PAF's component in its direction, plus min(0, H/(2d) - 1) for its length d in a map of height H. It
    must be positive, and more than 6 of the points above 0.05. The best come first, no peak is used twice.
    """
    height, width = pafs.shape[:2]
    count = np.bincount(part, minlength=NUM_PARTS)
    start = np.cumsum(count) - count
    # All pairs of all limbs in one list: the pair's limb, and its peaks a and b.
    pairs = count[_PARTS_A] * count[_PARTS_B]
    limb = np.repeat(np.arange(len(LIMBS)), pairs)
    number = np.arange(len(limb)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    in_a, in_b = np.divmod(number, count[_PARTS_B][limb])
    a, b = start[_PARTS_A][limb] + in_a, start[_PARTS_B][limb] + in_b

    dx, dy = x[b] - x[a], y[b] - y[a]
    length = np.hypot(dx, dy).astype(np.float32)
    apart = np.maximum(length, 1)
    # floor(x + dx * step / 10 + 1/2) // 8 in whole numbers, so that halves are never a matter of rounding.
    unit = LIMB_POINTS * UPSAMPLING
    cell_x = (LIMB_POINTS * x[a, None] + dx[:, None] * _STEPS + LIMB_POINTS // 2) // unit
    cell_y = (LIMB_POINTS * y[a, None] + dy[:, None] * _STEPS + LIMB_POINTS // 2) // unit
    cell = (cell_y * width + cell_x) * NUM_PAFS
    field = pafs.ravel()
    along = field[cell + _PAF_X[limb, None]] * (dx / apart)[:, None]
    along += field[cell + _PAF_Y[limb, None]] * (dy / apart)[:, None]
    score = along.mean(axis=1) + np.minimum(0, height * UPSAMPLING / 2 / apart - 1)
    good = (score > 0) & (np.count_nonzero(along > POINT_THRESHOLD, axis=1) >= MIN_POINTS) & (length > 0)

    chosen = np.flatnonzero(good)
    chosen = chosen[np.lexsort((-score[chosen], limb[chosen]))]
    limbs = [[] for _ in LIMBS]
    used = set()
    for k, first, second, value in zip(*(array[chosen].tolist() for array in (limb, a, b, score)), strict=True):
        if (k, 0, first) not in used and (k, 1, second) not in used:
            used.update(((k, 0, first), (k, 1, second)))
            limbs[k].append((first, second, value))
    return limbs


def assemble(limbs: list[list[tuple]], part_scores: list[float]) -> list[list[int]]:
    """Put limbs together to people: for each person the peak of each of the 18 parts, -1 if not found.

    `limbs` is as `find_limbs` gives it. A limb that shares a part with a person joins it, one that shares with
    two joins them if they have no part twice. People of fewer than 4 parts are dropped, and so are those whose
    mean score is below 0.3: the sum of part scores and limb scores, divided by the number of parts.
    """
    people, totals, owner = [], [], {}
    for k, (part_a, part_b) in enumerate(LIMBS):
        for a, b, score in limbs[k]:
            with_a, with_b = owner.get(a), owner.get(b)
            if with_a is None and with_b is None:
                if k < _TREE_LIMBS:
                    person = [-1] * NUM_PARTS
                    person[part_a], person[part_b] = a, b
                    owner[a] = owner[b] = len(people)
                    people.append(person)
                    totals.append(part_scores[a] + part_scores[b] + score)
            elif with_b is None:
                if people[with_a][part_b] < 0:
                    people[with_a][part_b] = b
                    owner[b] = with_a
                    totals[with_a] += part_scores[b] + score
            elif with_a is not None and with_a != with_b:
                one, other = sorted((with_a, with_b))
                if not any(p >= 0 and q >= 0 for p, q in zip(people[one], people[other], strict=True)):
                    people[one] = [max(p, q) for p, q in zip(people[one], people[other], strict=True)]
                    owner.update((p, one) for p in people[other] if p >= 0)
                    people[other] = [-1] * NUM_PARTS
                    totals[one] += totals[other] + score
    counted = [(person, total, NUM_PARTS - person.count(-1)) for person, total in zip(people, totals, strict=True)]
    return [person for person, total, parts in counted if parts >= MIN_PARTS and total / parts >= MIN_MEAN_SCORE]
