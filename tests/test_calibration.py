"""Temperatures and thresholds: the formulas, what training keeps of them, what predict.py makes of them."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.cli import UserError
from fusion.calibration import (
    TEMPERATURES,
    Calibration,
    calibrate,
    choose_threshold,
    combine,
    expected_calibration_error,
    fit_temperature,
    read_calibration,
)
from fusion.metrics import fuse, softmax
from fusion.scores import load_scores
from pose.keypoints import save_keypoints
from prediction import overlay
from prediction.classify import Poses, Prediction
from prediction.results import bars_of, describe
from tests.helpers import assert_error, call_main, train_script
from tests.test_predict import CLASSES, write_checkpoint, write_video
from training.calibration import keep_calibration
from utils import load_checkpoint, save_checkpoint


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


@pytest.mark.parametrize(
    "kept", [3, {}, {"temperature": 1.0}, {"temperature": 0, "threshold": 0.5}, {"temperature": 1, "threshold": "x"}]
)
def test_damaged_calibrations(kept):
    assert read_calibration({}, "x.tar") == Calibration()
    with pytest.raises(UserError, match=r"x\.tar.*calibration"):
        read_calibration({"calibration": kept}, "x.tar")


# ---- training ----


def test_training_keeps_it_with_the_best_model(tiny, tmp_path):
    record = tmp_path / "record"
    finished = train_script("spatial", tiny, record, "--epochs", 2, "--val-groups", "5,6", inline=True)
    assert finished.returncode == 0, finished.stderr
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
    assert train_script("spatial", tiny, tmp_path / "test", *test, inline=True).returncode == 0
    said = json.loads((tmp_path / "test" / "evaluation.json").read_text())["calibration"]
    assert said == pytest.approx(expected, rel=1e-3)
    assert (record / "model_best.pth.tar").read_bytes() == before
    # A run that lost it, or is of an earlier version, gets it when it is asked for no more epochs.
    save_checkpoint(record / "model_best.pth.tar", {n: v for n, v in best.items() if n != "calibration"})
    resume = ("--resume", record / "checkpoint.pth.tar")
    assert train_script("spatial", tiny, record, *resume, inline=True).returncode == 0
    again = load_checkpoint(record / "model_best.pth.tar")
    assert again["calibration"] == expected and again["epoch"] == best["epoch"]
    assert all(torch.equal(again["state_dict"][name], tensor) for name, tensor in best["state_dict"].items())


def test_without_validation_videos_nothing_is_known(tiny, tmp_path):
    finished = train_script("spatial", tiny, tmp_path, "--epochs", 1, inline=True)
    assert finished.returncode == 0 and "calibration" not in finished.stdout
    assert read_calibration(load_checkpoint(tmp_path / "model_best.pth.tar"), "x") == Calibration()
    assert json.loads((tmp_path / "summary.json").read_text())["calibration"] is None


def test_a_full_disk_leaves_the_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "best.tar"
    save_checkpoint(path, {"state_dict": {"weight": torch.ones(3)}})
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        keep_calibration(path, {"temperature": 2.0, "threshold": 0.5})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- what is said of a video ----


def prediction(spatial, motion, found: int = 10, looked_at: int = 10) -> Prediction:
    """Logits of two streams, and people in `found` of the frames looked at."""
    people = {number: np.ones((int(number <= found), 18, 3), np.float32) for number in range(1, looked_at + 1)}
    logits = {"spatial": np.array(spatial, np.float32), "motion_pose": np.array(motion, np.float32)}
    return Prediction(logits, 300, Poses(people, (40, 40)), "")


UNKNOWN = {"spatial": Calibration(), "motion_pose": Calibration()}


def test_an_answer_below_the_threshold_is_none_of_these():
    known = {"spatial": Calibration(2.0, 0.5), "motion_pose": Calibration(1.0, 0.2)}  # together 0.75 and 0.6
    said = describe(prediction([2, 1, 0], [2, 1, 0]), CLASSES, None, known)
    best = softmax(np.array([2, 1, 0]) / 0.75)[0]
    assert list(said["fused"]["probabilities"].values())[0] == pytest.approx(best) and best > 0.6
    assert said["answer"] == CLASSES[0] and said["notes"] == []
    assert said["streams"]["spatial"]["probabilities"][CLASSES[0]] == pytest.approx(softmax(np.array([1, 0.5, 0]))[0])
    said = describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), CLASSES, None, known)
    assert said["answer"] is None and said["notes"][0].startswith("none of these: the likeliest is Tai Chi, 37.9 %")
    assert said["notes"][0].endswith("below 60.0 %")
    assert describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), CLASSES, None, known, 0)["answer"] == CLASSES[0]
    assert describe(prediction([2, 1, 0], [2, 1, 0]), CLASSES, None, known, 0.9)["answer"] is None
    assert describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), CLASSES, None, UNKNOWN)["answer"] == CLASSES[0]


def test_streams_that_disagree_and_few_people():
    said = describe(prediction([9, 0, 0], [0, 1, 0], 2, 40), CLASSES, None, UNKNOWN)["notes"]
    assert said == [
        "the streams disagree: spatial Tai Chi 100.0 %, motion_pose Bäume fällen 57.6 %",
        "people in only 5 % of the frames (2 of 40 looked at)",
    ]
    assert describe(prediction([9, 0, 0], [1, 0, 0], 10, 40), CLASSES, None, UNKNOWN)["notes"] == []
    alone = prediction([9, 0, 0], [1, 0, 0], 0, 40)
    del alone.logits["motion_pose"]  # the overlay's people are no concern of the spatial stream
    assert describe(alone, CLASSES, None, {"spatial": Calibration()})["notes"] == []


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A video with people in 2 of its 12 frames, and checkpoints with and without a calibration."""
    root = tmp_path_factory.mktemp("calibrated")
    write_video(root / "one.mkv", 12, (64, 48))
    people = np.full((2, 18, 3), 0.5, np.float32)
    save_keypoints(root / "keypoints.npz", people, np.array([1, 2], np.int32), 12, (48, 64))
    for number, (name, channels) in enumerate((("spatial", 3), ("motion", 30))):
        write_checkpoint(root / f"{name}.tar", channels, number)
        kept = load_checkpoint(root / f"{name}.tar") | {"calibration": {"temperature": 2.0, "threshold": 0.99}}
        save_checkpoint(root / f"{name}_calibrated.tar", kept)
    return root


def predict(data: Path, tmp_path: Path, suffix: str, *arguments) -> tuple[dict, str]:
    streams = ("--spatial", data / f"spatial{suffix}.tar", "--motion", data / f"motion{suffix}.tar")
    common = ("--keypoints", data / "keypoints.npz", "--device", "cpu", "--json", tmp_path / "x.json")
    finished = call_main("predict", data / "one.mkv", *streams, *common, *arguments)
    assert finished.returncode == 0, finished.stderr
    return json.loads((tmp_path / "x.json").read_text(encoding="utf-8")), finished.stdout


def test_what_predict_says(data, tmp_path):
    plain, text = predict(data, tmp_path, "")
    sure, said = predict(data, tmp_path, "_calibrated", "--overlay", tmp_path / "x.mp4")
    always, _ = predict(data, tmp_path, "_calibrated", "--threshold", 0)
    assert plain["fused"] == {"calibrated": False, "temperature": 1, "threshold": None}
    assert sure["fused"] == pytest.approx({"calibrated": True, "temperature": 1, "threshold": 0.9999})
    assert always["fused"]["threshold"] == 0
    assert [stream["temperature"] for stream in sure["streams"].values()] == [2, 2]
    one, two, three = (result["videos"][0] for result in (plain, sure, always))
    assert one["answer"] == three["answer"] == next(iter(two["fused"]["logits"])) and two["answer"] is None
    for scores_, temperature in ((two["fused"], 1), (two["streams"]["spatial"], 2)):
        expected = softmax(np.array(list(scores_["logits"].values())) / temperature)
        assert list(scores_["probabilities"].values()) == pytest.approx(expected)
    assert one["fused"]["logits"] == two["fused"]["logits"]
    assert "none of these" in said and "none of these" not in text
    for note in two["notes"]:
        assert note in said
    assert "people in only 17 % of the frames (2 of 12 looked at)" in text
    assert (tmp_path / "x.mp4").stat().st_size > 1000
    common = (data / "one.mkv", "--spatial", data / "spatial.tar", "--threshold")
    assert_error(call_main("predict", *common, "1.2"), "--threshold", "between 0 and 1")
    assert_error(call_main("predict", *common, "much"), "--threshold", "much")


# ---- overlay ----


def test_panel_of_streams_and_notes():
    result = describe(prediction([0.2, 0.1, 0], [0, 2, 0], 1, 10), CLASSES, None, UNKNOWN, 0.9)
    bars = bars_of(result, 3)
    assert bars.top[0][0] == CLASSES[1] and not bars.answered and len(bars.notes) == 3
    for width in (320, 640):
        picture = overlay.draw_panel(bars, width)
        panel = np.asarray(picture).astype(int)
        # The bar's longest rows: two streams' of each class, in the order of the classes.
        shown = {tuple(color): [] for color in (overlay.OTHERS, overlay.STREAM, overlay.BEST)}
        for color, lengths in shown.items():
            count = (panel == color).all(axis=2).sum(1) / ((panel == overlay.TRACK) | (panel == color)).all(2).sum(
                1
            ).clip(1)
            inside = (panel == overlay.TRACK).all(axis=2).sum(1) + (panel == color).all(axis=2).sum(1) > width / 5
            edges = np.flatnonzero(np.diff(np.r_[0, inside & (count > 0), 0]))
            lengths += [count[(start + end) // 2] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        expected = [value for _, value in bars.top]
        assert shown[overlay.OTHERS] == pytest.approx(expected, abs=0.02) and not shown[overlay.BEST]
        pairs = list(zip(*bars.streams.values(), strict=True))
        assert shown[overlay.STREAM] == pytest.approx([value for pair in pairs for value in pair], abs=0.02)
        assert (panel == overlay.NOTE).all(axis=2).any()
    assert overlay.wrap("one two 5 % three", 20, 110, 10) == ["one two", "5\xa0%", "three"]
