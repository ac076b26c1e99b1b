"""Temperatures and thresholds: the formulas, their table, what training keeps of them."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusion.metrics import (
    TEMPERATURES,
    Calibration,
    calibrate,
    choose_threshold,
    combine,
    expected_calibration_error,
    fit_temperature,
    fuse,
    read_calibration,
    softmax,
)
from fusion.scores import load_scores
from tests.helpers import train_script, train_well
from utils import load_checkpoint


def scores(count: int, classes: int, seed: int = 0, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn with the probabilities softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = 2 * temperature * generator.normal(size=(count, classes))
    labels = [generator.choice(classes, p=row) for row in softmax(logits / temperature)]
    return logits, np.array(labels)


# ---- formulas ----


@pytest.mark.parametrize("true", [0.2, 1.0, 7.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true):
    logits, labels = scores(4000, 6, temperature=true)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.06)
    error = expected_calibration_error(softmax(logits / fit_temperature(logits, labels)), labels)
    assert error < 0.02 < expected_calibration_error(softmax(logits * 3), labels)


def test_the_temperature_is_the_least_of_the_cross_entropy():
    """With one more video that is of every class in equal parts, and torch's own cross-entropy."""
    logits, labels = scores(30, 5, seed=3)
    tried = torch.logspace(-1.3, 2, 20001, dtype=torch.float64)
    targets = (F.one_hot(torch.tensor(labels), 5) * 30 + 1 / 5) / 31
    losses = [F.cross_entropy(torch.tensor(logits) / t, targets) for t in tried[::20]]
    best = tried[::20][int(torch.stack(losses).argmin())].item()
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=0.01)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5 * fit_temperature(logits, labels))
    assert fit_temperature(logits + 100, labels) == pytest.approx(fit_temperature(logits, labels))


def test_few_videos_that_are_all_right_do_not_make_it_certain():
    logits, labels = 3 * np.eye(4)[[0, 1, 2, 3, 0]], np.array([0, 1, 2, 3, 0])
    confidence = softmax(logits / fit_temperature(logits, labels)).max(1)
    assert confidence == pytest.approx((5 + 1 / 4) / 6)
    assert fit_temperature(logits, (labels + 1) % 4) == pytest.approx(TEMPERATURES[1])  # worse than chance


def test_calibration_error_is_that_of_its_definition():
    logits, labels = scores(200, 4, seed=5)
    probabilities = softmax(logits)
    total = 0
    for i in range(10):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if i / 10 <= row.max() < (i + 1) / 10
        ]
        total += abs(sum(right for _, right in inside) - sum(confidence for confidence, _ in inside)) if inside else 0
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(total / 200)
    certain = np.eye(4)[labels]
    assert expected_calibration_error(certain, labels) == 0
    assert expected_calibration_error(certain, (labels + 1) % 4) == 1


def test_a_threshold_lets_95_percent_of_the_right_answers_through():
    logits, labels = scores(2000, 4, seed=1)
    probabilities = softmax(logits)
    right = probabilities.argmax(1) == labels
    passed = probabilities.max(1) >= choose_threshold(probabilities, labels)
    assert passed[right].mean() == pytest.approx(0.95, abs=0.001) and passed[~right].mean() < 0.85
    assert choose_threshold(np.eye(3), np.array([1, 2, 0])) == 0


def test_streams_together():
    one, two = Calibration(2.0, 0.5), Calibration(1.0, 0.2)
    assert combine([one]) == one
    assert combine([one, two], [3, 0]) == one
    assert combine([one, two]) == pytest.approx((0.75, 1 - 0.5 * 0.8))
    temperature, threshold = combine([one, two], [2, 1])  # 1 / (4/9 + 1/9) = 1.8 streams
    assert temperature == pytest.approx((2 * 2 / 3 + 1 / 3) / 1.8)
    assert threshold == pytest.approx(1 - 0.5**1.2 * 0.8**0.6)
    # Equal weights: as if probabilities of streams of one temperature were multiplied.
    logits = np.random.default_rng(0).normal(size=(2, 5))
    product = softmax(logits[0] / 2) * softmax(logits[1] / 2)
    fused = softmax(fuse(list(logits)).astype(float) / combine([one, one]).temperature)
    assert fused == pytest.approx(product / product.sum(), rel=1e-5)
    assert combine([one, Calibration()]) == Calibration() != combine([one, Calibration()], [1, 0])


# ---- training ----


def test_training_keeps_it_with_the_best_model(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("training.resume.LEAST_VIDEOS", 6)
    record = tmp_path / "record"
    finished = train_well("spatial", tiny, record, "--epochs", 1, "--val-groups", "5,6")
    best = load_checkpoint(record / "model_best.pth.tar")
    table = load_scores(record / "spatial_video_val_preds.pickle")
    labels = np.array([sorted({name.split("_")[0] for name in table}).index(name.split("_")[0]) for name in table])
    expected = calibrate(np.stack(list(table.values())), labels)
    assert best["calibration"] == expected and expected["videos"] == 6
    assert json.loads((record / "summary.json").read_text())["calibration"] == expected
    line = next(line for line in finished.stdout.splitlines() if line.startswith("calibration: "))
    assert f"temperature {expected['temperature']:.2f}" in line and "on 6 validation videos" in line
    assert "calibration" not in load_checkpoint(record / "checkpoint.pth.tar")
    # A test says it, and leaves the checkpoint as it is.
    before = (record / "model_best.pth.tar").read_bytes()
    test = ("--resume", record / "model_best.pth.tar", "--evaluate")
    train_well("spatial", tiny, tmp_path / "test", *test)
    said = json.loads((tmp_path / "test" / "evaluation.json").read_text())["calibration"]
    assert said == pytest.approx(expected, rel=1e-3)
    assert (record / "model_best.pth.tar").read_bytes() == before
    # Of fewer videos nothing is learned.
    monkeypatch.undo()
    finished = train_script("spatial", tiny, tmp_path / "few", *test)
    assert "calibration: left out, 6 validation videos are too few" in finished.stdout
    assert json.loads((tmp_path / "few" / "evaluation.json").read_text())["calibration"] is None


def test_without_validation_videos_nothing_is_known(trained):
    record = trained("spatial")
    assert read_calibration(load_checkpoint(record / "model_best.pth.tar")) == Calibration()
    assert json.loads((record / "summary.json").read_text())["calibration"] is None
