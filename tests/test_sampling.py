import numpy as np
import pytest

from dataloader.sampling import clips_for_testing, num_starts, random_state, segment_starts, stack_indices
from dataloader.sampling import test_starts as starts_of
from tests.reference_data import ucf101_lengths


def check_starts(n):
    starts = starts_of(n)
    assert len(starts) == 19
    assert all(a <= b for a, b in zip(starts, starts[1:], strict=False))
    assert starts[0] == 1
    assert starts[-1] <= max(n - 9, 1)
    for start in starts:
        stack = stack_indices(start, n)
        assert len(stack) == 10
        assert stack[0] == start and max(stack) <= n
        steps = np.diff(stack)
        assert set(steps) <= {0, 1} and all(frame == n for frame in np.array(stack[1:])[steps == 0])


def test_starts_of_all_ucf101_lengths():
    lengths = ucf101_lengths()
    assert sum(lengths.values()) == 13320
    for n in {*lengths, *range(1, 61)}:
        check_starts(n)


def test_starts_follow_the_formula():
    assert starts_of(28) == list(range(1, 20))
    assert starts_of(200) == list(range(1, 182, 10))
    assert starts_of(60) == [1, 3, 6, 9, 11, 14, 17, 19, 22, 25, 27, 30, 33, 35, 38, 41, 43, 46, 49]
    assert starts_of(5) == [1] * 19
    assert stack_indices(1, 4) == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("length", [1, 10])
@pytest.mark.parametrize("n", [1, 4, 10, 23, 28, 500])
def test_clips_are_the_frames_from_each_start(n, length):
    frames, index = clips_for_testing(n, length)
    assert frames == sorted(set(frames)) and index.shape == (19, length)
    for row, start in zip(index, starts_of(n), strict=True):
        assert [frames[position] for position in row] == [min(start + k, n) for k in range(length)]
    assert set(index.ravel()) == set(range(len(frames)))  # none is read for nothing


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match="at least one frame"):
        num_starts(0)


@pytest.mark.parametrize("n", [1, 9, 11, 12, 13, 40, 163])
def test_segments_are_equal_and_cover_all_starts(n):
    starts = num_starts(n)
    generator = np.random.default_rng(0)
    drawn = np.array([segment_starts(n, generator.random(3)) for _ in range(6000)])
    assert drawn.min() >= 1 and drawn.max() <= starts
    assert set(drawn.ravel()) == set(range(1, starts + 1))
    for k in range(3):
        # Segment k is the part of 1..S between the fractions k/3 and (k+1)/3.
        assert drawn[:, k].min() == 1 + k * starts // 3
        assert drawn[:, k].max() == -(-(k + 1) * starts // 3)
    counts = np.bincount(drawn.ravel(), minlength=starts + 1)[1:] / drawn.size
    assert np.abs(counts - 1 / starts).max() < 0.02


def test_one_segment_is_a_uniform_start():
    generator = np.random.default_rng(0)
    drawn = [segment_starts(14, generator.random(1))[0] for _ in range(5000)]
    assert np.abs(np.bincount(drawn, minlength=6)[1:] / 5000 - 0.2).max() < 0.03


def test_random_state_depends_on_seed_epoch_and_name_only():
    draws = {key: random_state(*key).random() for key in [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"), (0, 0)]}
    assert len(set(draws.values())) == 5
    assert random_state(0, 1, "a").random() == draws[0, 1, "a"]
