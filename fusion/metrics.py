"""Accuracy from score arrays, and the fusion of streams; numpy alone."""

from collections.abc import Sequence

import numpy as np


def precision(scores: np.ndarray, labels: np.ndarray, topk: Sequence[int] = (1, 3)) -> list[float]:
    """Prec@k in percent for each k: how many videos have their class among the k highest scores.

    `scores` (N, classes), `labels` (N,). Of equal scores the lower class index ranks higher, and a NaN ranks last.
    Raises `ValueError` for no video or shapes that disagree.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"scores (N, classes) and labels (N,) needed, got {scores.shape} and {labels.shape}")
    hits = rank_classes(scores) == labels[:, None]
    return [100.0 * float(hits[:, :k].any(1).mean()) for k in topk]


def rank_classes(scores: np.ndarray) -> np.ndarray:
    """Class indices (N, classes) from the highest score to the lowest; equal scores in index order."""
    return np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable")


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts, int64 (classes, classes): row = true class, column = predicted class."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def fuse(streams: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Weighted mean of the streams' scores, each (…, classes), as float32; equal weights by default.

    Raises `ValueError` unless there is one finite weight ≥ 0 per stream and their sum is positive.
    """
    weights = np.ones(len(streams)) if weights is None else np.asarray(weights, np.float64)
    valid = np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    if weights.shape != (len(streams),) or not valid:
        raise ValueError(f"one weight >= 0 per stream expected, not all 0; got {list(weights)}")
    total = sum(w * np.asarray(s, np.float64) for w, s in zip(weights / weights.sum(), streams, strict=True))
    return total.astype(np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of logits over the last axis, float64."""
    scores = np.asarray(scores, np.float64)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
