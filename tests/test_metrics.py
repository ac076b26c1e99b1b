import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion.metrics import confusion_matrix, fuse, precision, rank_classes, softmax


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_precision_and_confusion_against_loops(data):
    count, classes = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    scores = data.draw(arrays.arrays(np.float32, (count, classes), elements=st.integers(-3, 3).map(float)))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    expected = []
    for k in (1, 3):
        hits = 0
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            ahead = sum(value > row[label] or (value == row[label] and i < label) for i, value in enumerate(row))
            hits += ahead < k
        expected.append(100 * hits / count)
    assert precision(scores, labels) == pytest.approx(expected)
    matrix = confusion_matrix(scores.argmax(1), labels, classes)
    assert matrix.shape == (classes, classes) and matrix.sum() == count
    assert 100 * np.trace(matrix) / count == pytest.approx(expected[0])
    np.testing.assert_array_equal(matrix.sum(1), np.bincount(labels, minlength=classes))


def test_metrics_details():
    assert precision([[0.1, np.nan], [2, 1]], [1, 0]) == [50, 100]
    np.testing.assert_array_equal(rank_classes([[1, 3, 3, 2]]), [[1, 2, 3, 0]])
    np.testing.assert_allclose(softmax([1000.0, 1000.0, -1000.0]), [0.5, 0.5, 0])
    np.testing.assert_array_equal(confusion_matrix([1, 1, 0], [0, 1, 0], 3), [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(fuse([np.float32([1, 2]), np.float32([3, 6])], (3, 1)), [1.5, 3])
    assert fuse([np.ones((2, 3))]).dtype == np.float32
    for bad in [
        lambda: fuse([np.ones(2)], (1, 2)),
        lambda: fuse([np.ones(2)], (-1,)),
        lambda: fuse([np.ones(2)] * 2, (0, 0)),
    ]:
        with pytest.raises(ValueError):
            bad()
