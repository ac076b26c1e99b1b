"""Accuracy, the fusion of streams, and what a probability is worth (temperatures, thresholds); numpy alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

TEMPERATURES = (0.05, 100.0)  # searched
ANSWERED = 0.95  # share of the correctly classified validation videos that a threshold lets through


def precision(scores: np.ndarray, labels: np.ndarray, topk: Sequence[int] = (1, 3)) -> list[float]:
    """Prec@k in percent for each k: how many videos have their class among the k highest scores.

    `scores` (N, classes), `labels` (N,). Of equal scores the lower class index ranks higher, and a NaN ranks last.
    """
    hits = rank_classes(scores) == np.asarray(labels)[:, None]
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


# ---- calibration ----


class Calibration(NamedTuple):
    """A `temperature` that logits are divided by, and the probability below which the answer is "none of these".

    Without validation scores: temperature 1, threshold None.
    """

    temperature: float = 1.0
    threshold: float | None = None

    @property
    def known(self) -> bool:
        """Whether validation scores chose it."""
        return self.threshold is not None


def fit_temperature(logits: np.ndarray, labels: np.ndarray, halvings: int = 50) -> float:
    """The temperature T that minimises the mean cross-entropy of softmax(logits / T) (arXiv 1706.04599).

    `logits` (N, C), `labels` (N,). As Platt did (1999), one more video is counted whose class is unknown: where all of
    few videos are right, T would be 0 and every later answer certain. The cross-entropy is convex in 1/T, so its slope
    is bisected, on a logarithmic scale, `halvings` times.
    """
    logits = np.asarray(logits, np.float64)
    count, classes = logits.shape
    targets = (np.eye(classes)[labels] * count + 1 / classes) / (count + 1)
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(halvings):
        middle = (low + high) / 2
        slope = ((softmax(logits * math.exp(middle)) - targets) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def fitted_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy (N,) of each video at the temperature that `fit_temperature` finds, to a thousandth."""
    probabilities = calibrated(logits, fit_temperature(logits, labels, halvings=13))
    return -np.log(probabilities[np.arange(len(labels)), labels].clip(1e-300))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over `bins` equal bins of confidence (arXiv 1706.04599).

    `probabilities` (N, C), `labels` (N,); confidence is the largest probability of a video; 0 is best, 1 worst.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def choose_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The largest confidence that 95 % or more of the correctly classified videos reach; 0 if there are none."""
    right = probabilities.argmax(1) == labels
    return float(np.quantile(probabilities.max(1)[right], 1 - ANSWERED, method="lower")) if right.any() else 0.0


def calibrated(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / temperature) over the last axis, float64 (…, C)."""
    return softmax(np.asarray(logits, np.float64) / temperature)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What a checkpoint keeps of a stream's validation scores, logits (N, C) and labels (N,), in plain numbers.

    `temperature` and `threshold`, and the expected calibration error with and without the temperature.
    """
    temperature = fit_temperature(logits, labels)
    probabilities = calibrated(logits, temperature)
    return {
        "temperature": temperature,
        "threshold": choose_threshold(probabilities, labels),
        "videos": len(labels),
        "ece_before": expected_calibration_error(softmax(logits), labels),
        "ece": expected_calibration_error(probabilities, labels),
    }


def read_calibration(checkpoint: Mapping) -> Calibration:
    """What `calibrate` left in a checkpoint."""
    kept = checkpoint.get("calibration")
    return Calibration(kept["temperature"], kept["threshold"]) if kept else Calibration()


def combine(calibrations: Sequence[Calibration], weights: Sequence[float] | None = None) -> Calibration:
    """Calibration of the fused logits Σ wₛ zₛ (Σ wₛ = 1; equal weights by default) from those of the streams.

    A mean of logits is less sure than the streams together are: where they err independently, their probabilities
    multiply. With n = 1 / Σ wₛ² streams that count, the temperature is Σ wₛ Tₛ / n. A fused answer of streams that all
    just reach their thresholds is wrong if all of them are: the threshold is 1 − Π (1 − θₛ)^(n wₛ). Thresholds fitted
    to fused validation scores were no better (benchmarks/README.md). Unknown if a stream that counts is not calibrated.
    """
    shares = np.ones(len(calibrations)) if weights is None else np.asarray(weights, np.float64)
    shares = shares / shares.sum()
    counted = [(share, calibration) for share, calibration in zip(shares, calibrations, strict=True) if share]
    if not all(calibration.known for _, calibration in counted):
        return Calibration()
    streams = 1 / np.square(shares).sum()
    temperature = sum(share * calibration.temperature for share, calibration in counted) / streams
    missed = math.prod((1 - calibration.threshold) ** (streams * share) for share, calibration in counted)
    return Calibration(float(temperature), float(1 - missed))
