from contextlib import closing

import numpy as np

from pose.estimators import Estimator
from pose.people import interpolate_people
from pose.pipeline import estimate


def _label(values, frame_size):
    return np.full((1, 18, 3), values[0], np.float32)


def test_estimate_keeps_order_and_equals_the_stages_called_in_turn():
    seen = []

    def infer(inputs):
        seen.append(len(inputs))
        return [(value,) for value in inputs]

    estimator = Estimator(lambda frame: frame[0, 0, 0], infer, _label, {})
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(50)]
    batches = [(start, frames[start : start + 3]) for start in range(0, 50, 3)]
    with closing(estimate(estimator, batches)) as results:
        collected = list(results)
    assert sorted(seen) == [2] + [3] * 16
    assert [tag for tag, *_ in collected] == [tag for tag, _ in batches]
    assert all(error is None and size == (4, 4) for *_, size, error in collected)
    found = [people for _, batch, *_ in collected for people in batch]
    for one, other in zip(found, estimator(frames), strict=True):
        np.testing.assert_array_equal(one, other)


def test_estimate_reports_a_broken_batch_and_goes_on(tmp_path):
    def frame(number):
        return np.full((4, 4 + (number == 7), 3), number, np.uint8)

    estimator = Estimator(lambda frame: frame[0, 0, 0], lambda inputs: [(v,) for v in inputs], _label, {})
    (tmp_path / "4.jpg").write_bytes(b"no image")
    batches = [("a", [frame(1), frame(2)]), ("b", [frame(3), tmp_path / "4.jpg"]), ("c", [frame(6), frame(7)])]
    batches.append(("d", [frame(8)]))
    with closing(estimate(estimator, batches)) as found:
        results = {tag: (people, error) for tag, people, _, error in found}
    assert [results[tag][1] is None for tag in "abcd"] == [True, False, False, True]
    assert "4.jpg: not an image" in str(results["b"][1])
    assert "5x4 pixels" in str(results["c"][1])


def test_estimate_reads_only_a_little_ahead():
    taken = []

    def batches():
        for number in range(1000):
            taken.append(number)
            yield number, [np.zeros((4, 4, 3), np.uint8)]

    estimator = Estimator(lambda frame: frame, lambda inputs: [(0,)], _label, {})
    with closing(estimate(estimator, batches())) as results:
        next(results)
        assert len(taken) < 20


# ---- people between frames, and too many of them ----


def person(x, y=0.5, parts=range(18)):
    result = np.zeros((18, 3), np.float32)
    result[list(parts)] = [(x + 0.01 * part, y + 0.02 * part, 0.5) for part in parts]
    return result


def test_interpolation_moves_matched_people_on_straight_lines():
    first, second = np.stack([person(0.1), person(0.6)]), np.stack([person(0.64), person(0.14)])
    middle = interpolate_people(first, second, 0.25, (100, 100))
    order = np.argsort(middle[:, 0, 0])
    np.testing.assert_allclose(middle[order], np.stack([person(0.11), person(0.61)]), atol=1e-6)


def test_interpolation_keeps_what_one_frame_has_for_half_of_the_time():
    first, second = person(0.1)[None], person(0.1, parts=range(10))[None]
    early, late = (interpolate_people(first, second, fraction, (100, 100)) for fraction in (0.4, 0.6))
    assert np.count_nonzero(early[0, :, 2]) == 18
    assert np.count_nonzero(late[0, :, 2]) == 10
    nobody = np.zeros((0, 18, 3), np.float32)
    assert len(interpolate_people(first, nobody, 0.4, (100, 100))) == 1
    assert len(interpolate_people(first, nobody, 0.6, (100, 100))) == 0
    assert interpolate_people(nobody, nobody, 0.5, (100, 100)).shape == (0, 18, 3)
    # Too far apart to be one person: one in each half, not a third one between them.
    far = interpolate_people(person(0.0)[None], person(0.7)[None], 0.4, (100, 100))
    np.testing.assert_array_equal(far, person(0.0)[None])
