import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pose import standing_people
from pose.paf import MAX_CANDIDATES, assemble, find_limbs, find_parts, group_people
from pose.skeleton import LIMB_PAFS, LIMBS, NUM_HEATMAPS, NUM_PAFS, NUM_PARTS
from tests.reference_data import REAL_IMAGES, real_pose


def random_maps(rng, height, width, smooth=True):
    """Maps with blobs of parts and fields of any direction, nothing like a person."""
    maps = rng.normal(size=(height, width, NUM_HEATMAPS + NUM_PAFS)).astype(np.float32)
    if smooth:
        for axis in (0, 1):
            maps = (maps + np.roll(maps, 1, axis) + np.roll(maps, 2, axis)) / 2
    return maps[..., :NUM_HEATMAPS], maps[..., NUM_HEATMAPS:]


def synthetic_maps(people: np.ndarray, height: int = 46, width: int = 54) -> tuple[np.ndarray, np.ndarray]:
    """Ideal network output for people (P, 18, 3): heatmaps (H, W, 19) and PAFs (H, W, 38)."""
    heatmaps = np.zeros((height, width, NUM_HEATMAPS), np.float32)
    pafs = np.zeros((height, width, NUM_PAFS), np.float32)
    y, x = np.mgrid[:height, :width]
    for person in people:
        points = person[:, :2] * (width, height) - 0.5
        for part, (part_x, part_y) in enumerate(points):
            if person[part, 2] > 0:
                blob = person[part, 2] * np.exp(-((x - part_x) ** 2 + (y - part_y) ** 2) / 2)
                heatmaps[..., part] = np.maximum(heatmaps[..., part], blob)
        for (a, b), channels in zip(LIMBS, LIMB_PAFS, strict=True):
            if person[a, 2] > 0 and person[b, 2] > 0:
                d = points[b] - points[a]
                length = max(np.hypot(*d), 1e-6)
                along = ((x - points[a][0]) * d[0] + (y - points[a][1]) * d[1]) / length
                across = ((x - points[a][0]) * d[1] - (y - points[a][1]) * d[0]) / length
                on_limb = (along > -1) & (along < length + 1) & (np.abs(across) < 1)
                pafs[on_limb, channels[0]], pafs[on_limb, channels[1]] = d / length
    heatmaps[..., -1] = 1 - heatmaps[..., :-1].max(axis=2)
    return heatmaps, pafs


def assert_same_people(found, expected, tolerance):
    assert len(found) == len(expected)
    left = list(range(len(expected)))
    for person in found:
        here = person[:, 2] > 0
        distances = [
            np.abs(person[here & (expected[i][:, 2] > 0), :2] - expected[i][here & (expected[i][:, 2] > 0), :2]).mean()
            for i in left
        ]
        other = expected[left.pop(int(np.argmin(distances)))]
        assert np.array_equal(here, other[:, 2] > 0)
        assert np.abs(person[here, :2] - other[here, :2]).max() <= tolerance


# ---- real maps ----


@pytest.mark.parametrize("name", REAL_IMAGES)
def test_finds_the_people_of_the_reference_decoder(name):
    real = real_pose(name)
    people = group_people(real.heatmaps, real.pafs)
    assert people.dtype == np.float32 and people.shape == real.people.shape
    assert np.array_equal(people[..., 2] > 0, real.people[..., 2] > 0)
    assert np.abs(people - real.people).max() < 1e-4


@pytest.mark.parametrize("name", REAL_IMAGES)
def test_part_and_limb_scores_add_up_to_the_reference_scores(name):
    real = real_pose(name)
    part, x, y, score = find_parts(real.heatmaps)
    limbs = find_limbs(real.pafs, part, x, y)
    people = assemble(limbs, score.tolist())
    for person, expected in zip(people, real.scores, strict=True):
        peaks = {peak for peak in person if peak >= 0}
        tree = [value for limb in limbs[:-2] for a, b, value in limb if a in peaks and b in peaks]
        loop = [value for limb in limbs[-2:] for a, b, value in limb if a in peaks and b in peaks]
        mean = (score[list(peaks)].sum() + sum(tree)) / len(peaks)
        # The limbs between shoulder and ear count only where they join two groups of parts.
        sums = [mean + sum(some) / len(peaks) for some in ([], loop[:1], loop[1:], loop)]
        assert min(abs(value - expected) for value in sums) < 1e-3


# ---- against plain loops ----


def plain_parts(heatmaps):
    """The peaks by loops, refined with torch's bicubic interpolation."""
    height, width = heatmaps.shape[:2]
    found = []
    for part in range(NUM_PARTS):
        for i in range(height):
            for j in range(width):
                value = heatmaps[i, j, part]
                near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                near = [heatmaps[k, m, part] for k, m in near if 0 <= k < height and 0 <= m < width]
                if value > 0.1 and all(value >= other for other in near):
                    top, left = max(i - 2, 0), max(j - 2, 0)
                    patch = torch.from_numpy(heatmaps[top : i + 3, left : j + 3, part].copy())[None, None]
                    size = [8 * length for length in patch.shape[2:]]
                    fine = torch.nn.functional.interpolate(patch, size, mode="bicubic")[0, 0].numpy()
                    y, x = np.unravel_index(fine.argmax(), fine.shape)
                    found.append((part, 8 * left + x, 8 * top + y, fine[y, x]))
    return [np.array(column) for column in zip(*found, strict=True)]


def plain_limbs(pafs, part, x, y):
    height = pafs.shape[0]
    limbs = []
    for (part_a, part_b), (channel_x, channel_y) in zip(LIMBS, LIMB_PAFS, strict=True):
        candidates = []
        for a in np.flatnonzero(part == part_a):
            for b in np.flatnonzero(part == part_b):
                dx, dy = float(x[b] - x[a]), float(y[b] - y[a])
                length = np.hypot(dx, dy)
                if length == 0:
                    continue
                values = []
                for i in range(10):
                    row, column = (int(start + d * i / 10 + 0.5) // 8 for start, d in ((y[a], dy), (x[a], dx)))
                    values.append((pafs[row, column, channel_x] * dx + pafs[row, column, channel_y] * dy) / length)
                score = np.mean(values) + min(0, 8 * height / (2 * length) - 1)
                if score > 0 and sum(value > 0.05 for value in values) > 6:
                    candidates.append((score, a, b))
        taken, limb = set(), []
        for score, a, b in sorted(candidates, key=lambda candidate: -candidate[0]):
            if ("a", a) not in taken and ("b", b) not in taken:
                taken |= {("a", a), ("b", b)}
                limb.append((a, b, score))
        limbs.append(limb)
    return limbs


@pytest.mark.parametrize("seed, shape", [(0, (14, 17)), (1, (9, 23)), (2, (4, 4))])
def test_parts_equal_those_of_plain_loops(seed, shape):
    heatmaps, _ = random_maps(np.random.default_rng(seed), *shape)
    found = find_parts(heatmaps)
    assert found[0].size > 30
    for name, one, other in zip("part x y score".split(), found, plain_parts(heatmaps), strict=True):
        assert np.allclose(one, other, atol=1e-5), name


@pytest.mark.parametrize("seed, shape", [(0, (14, 17)), (1, (9, 23)), (2, (30, 30))])
def test_limbs_equal_those_of_plain_loops(seed, shape):
    rng = np.random.default_rng(seed)
    _, pafs = random_maps(rng, *shape)
    part = np.sort(rng.integers(0, NUM_PARTS, 80))
    x, y = rng.integers(0, 8 * shape[1], 80), rng.integers(0, 8 * shape[0], 80)
    limbs, expected = find_limbs(pafs, part, x, y), plain_limbs(pafs, part, x, y)
    assert sum(map(len, expected)) > 20
    for one, other in zip(limbs, expected, strict=True):
        assert [limb[:2] for limb in one] == [limb[:2] for limb in other]
        assert np.allclose([limb[2] for limb in one], [limb[2] for limb in other], atol=1e-5)


# ---- made-up people ----


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.floats(0, 0.25))
def test_people_with_parts_missing_are_found_again(seed, count, missing):
    rng = np.random.default_rng(seed)
    people = standing_people(count, seed)
    hands_and_feet = [4, 7, 10, 13, 16, 17]  # without these a person stays in one piece
    people[:, hands_and_feet, 2] = rng.random((count, len(hands_and_feet))) >= missing
    assert_same_people(group_people(*synthetic_maps(people, 60, 90)), people, 0.012)


def test_a_body_without_its_neck_is_joined_through_the_ear():
    people = standing_people(1)
    people[0, [1, 8, 9, 10, 11, 12, 13], 2] = 0
    found = group_people(*synthetic_maps(people, 60, 90))
    assert_same_people(found, people, 0.012)


def test_crossing_limbs_follow_the_fields():
    people = standing_people(2)
    people[:, 4, :2] = people[::-1, 4, :2]  # each right wrist lies where the other's should be
    assert_same_people(group_people(*synthetic_maps(people, 60, 90)), people, 0.012)


def test_people_of_three_parts_or_of_low_scores_are_dropped():
    people = standing_people(1)
    people[0, 4:, 2] = 0
    people[0, 0, 2] = 0
    assert len(group_people(*synthetic_maps(people, 60, 90))) == 0
    people[0, 4, 2] = 1
    heatmaps, pafs = synthetic_maps(people, 60, 90)
    assert len(group_people(heatmaps, pafs)) == 1
    assert len(group_people(0.12 * heatmaps, 0.11 * pafs)) == 0


# ---- odd input ----


def test_maps_of_one_value_and_noise_end_in_bounded_time():
    assert find_parts(np.ones((46, 54, NUM_HEATMAPS), np.float32))[0].size == NUM_PARTS * MAX_CANDIDATES
    rng = np.random.default_rng(0)
    heatmaps = rng.random((46, 54, NUM_HEATMAPS), np.float32)
    part, x, y, score = find_parts(heatmaps)
    assert np.array_equal(np.bincount(part), [MAX_CANDIDATES] * NUM_PARTS)
    assert score.min() > 0.8  # the best were kept
    group_people(heatmaps, rng.normal(size=(46, 54, NUM_PAFS)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31), st.booleans())
def test_any_maps_give_valid_people(height, width, seed, smooth):
    people = group_people(*random_maps(np.random.default_rng(seed), height, width, smooth))
    assert np.isfinite(people).all()
    found = people[..., 2] > 0
    assert (people[~found] == 0).all()
    assert ((people[..., :2] >= 0) & (people[..., :2] < 1)).all()
    assert (found.sum(axis=1) >= 4).all()


def test_numbers_that_are_not_finite_are_refused():
    heatmaps, pafs = np.zeros((4, 5, NUM_HEATMAPS)), np.zeros((4, 5, NUM_PAFS))
    pafs[1, 1, 1] = np.inf
    with pytest.raises(ValueError, match="finite"):
        group_people(heatmaps, pafs)


# ---- assembling ----


def limbs_of(**joined):
    """`l3=[(a, b, score)]`: limb 3 joins the peaks a and b."""
    return [joined.get(f"l{k}", []) for k in range(len(LIMBS))]


def test_two_people_with_a_part_in_common_kind_stay_two():
    # Both have a nose; the limb from one's shoulder to the other's ear must not join them.
    one = {"l0": [(0, 1, 0.9)], "l12": [(0, 2, 0.9), (10, 12, 0.9)]}
    limbs = limbs_of(**one, l2=[(1, 3, 0.9)], l13=[(12, 13, 0.9)], l14=[(13, 14, 0.9)], l17=[(1, 14, 0.9)])
    people = assemble(limbs, [0.5] * 20)
    assert [[peak for peak in person if peak >= 0] for person in people] == [[2, 0, 1, 3], [12, 10, 13, 14]]


def test_a_loop_limb_alone_starts_nobody():
    assert assemble(limbs_of(l17=[(0, 1, 5.0)], l18=[(2, 3, 5.0)]), [5.0] * 4) == []
