"""What predict.py makes of calibrations: none of these, streams that disagree, few people; in print, JSON, overlay."""

import json
from pathlib import Path

import numpy as np
import pytest

from fusion.metrics import Calibration, softmax
from pose.keypoints import save_keypoints
from prediction import overlay
from prediction.classify import Fusion, Prediction, describe
from prediction.overlay import bars_of
from tests.helpers import assert_error, call_main, moving, write_video
from tests.prediction_data import CLASSES, write_checkpoint
from training.streams import Window
from utils import load_checkpoint, save_checkpoint


def prediction(spatial, motion, found: int = 10, looked_at: int = 10) -> Prediction:
    """Logits of two streams, and people in `found` of the frames looked at."""
    people = {number: np.ones((int(number <= found), 18, 3), np.float32) for number in range(1, looked_at + 1)}
    logits = {"spatial": np.array(spatial, np.float32), "motion_pose": np.array(motion, np.float32)}
    return Prediction(logits, Window(300, {}, people, (40, 40)))


UNKNOWN = {"spatial": Calibration(), "motion_pose": Calibration()}


def test_an_answer_below_the_threshold_is_none_of_these():
    known = {"spatial": Calibration(2.0, 0.5), "motion_pose": Calibration(1.0, 0.2)}  # together 0.75 and 0.6
    said = describe(prediction([2, 1, 0], [2, 1, 0]), Fusion(CLASSES, known))
    best = softmax(np.array([2, 1, 0]) / 0.75)[0]
    assert list(said["fused"]["probabilities"].values())[0] == pytest.approx(best) and best > 0.6
    assert said["answer"] == CLASSES[0] and said["notes"] == []
    assert said["streams"]["spatial"]["probabilities"][CLASSES[0]] == pytest.approx(softmax(np.array([1, 0.5, 0]))[0])
    said = describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), Fusion(CLASSES, known))
    assert said["answer"] is None and said["notes"][0].startswith("none of these: the likeliest is Tai Chi, 37.9 %")
    assert said["notes"][0].endswith("below 60.0 %")
    assert describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), Fusion(CLASSES, known, None, 0))["answer"] == CLASSES[0]
    assert describe(prediction([2, 1, 0], [2, 1, 0]), Fusion(CLASSES, known, None, 0.9))["answer"] is None
    assert describe(prediction([0.2, 0.1, 0], [0.2, 0.1, 0]), Fusion(CLASSES, UNKNOWN))["answer"] == CLASSES[0]


def test_streams_that_disagree_and_few_people():
    said = describe(prediction([9, 0, 0], [0, 1, 0], 2, 40), Fusion(CLASSES, UNKNOWN))["notes"]
    assert said == [
        "the streams disagree: spatial Tai Chi 100.0 %, motion_pose Bäume fällen 57.6 %",
        "people in only 5 % of the frames (2 of 40 looked at)",
    ]
    assert describe(prediction([9, 0, 0], [1, 0, 0], 10, 40), Fusion(CLASSES, UNKNOWN))["notes"] == []
    alone = prediction([9, 0, 0], [1, 0, 0], 0, 40)
    del alone.logits["motion_pose"]  # the overlay's people are no concern of the spatial stream
    assert describe(alone, Fusion(CLASSES, {"spatial": Calibration()}))["notes"] == []


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A video with people in 2 of its 12 frames, and checkpoints with and without a calibration."""
    root = tmp_path_factory.mktemp("calibrated")
    write_video(root / "one.mkv", moving(12, (64, 48)))
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
    assert plain["fused"] == {"temperature": 1, "threshold": None}
    assert sure["fused"] == pytest.approx({"temperature": 1, "threshold": 0.9999})
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


def test_streams_of_poses_leave_where_nobody_is_in_view(data, tmp_path):
    """People in 2 of 20 frames are enough, in 2 of 21 they are not: then the spatial stream alone counts."""
    people = np.full((2, 18, 3), 0.5, np.float32)
    for count, streams in ((20, ["spatial", "motion_pose"]), (21, ["spatial"])):
        write_video(tmp_path / "few.mkv", moving(count, (64, 48)))
        save_keypoints(tmp_path / "few.npz", people, np.array([1, 2], np.int32), count, (48, 64))
        given = (tmp_path / "few.mkv", "--motion", data / "motion.tar", "--keypoints", tmp_path / "few.npz")
        given += ("--device", "cpu", "--json", tmp_path / "x.json", "--overlay", tmp_path / "x.mp4")
        both = call_main("predict", *given, "--spatial", data / "spatial_calibrated.tar", "--weights", 1, 3)
        assert both.returncode == 0, both.stderr
        (result,) = json.loads((tmp_path / "x.json").read_text())["videos"]
        assert list(result["streams"]) == streams
    assert result["fused"] == result["streams"]["spatial"] and result["notes"][0] in both.stdout
    assert result["notes"][0] == "nobody in view: people in 2 of the 21 frames looked at; without motion_pose"
    assert result["notes"][1].endswith("below 99.0 %")  # the threshold of the spatial stream
    alone = call_main("predict", *given)
    (result,) = json.loads((tmp_path / "x.json").read_text())["videos"]
    assert alone.returncode == 0 and result["answer"] is None and not result["fused"]["logits"]
    assert alone.stdout.splitlines()[2].strip() == "nobody in view: people in 2 of the 21 frames looked at"


# ---- overlay ----


def test_panel_of_streams_and_notes():
    result = describe(prediction([0.2, 0.1, 0], [0, 2, 0], 1, 10), Fusion(CLASSES, UNKNOWN, None, 0.9))
    bars = bars_of(result, 3)
    assert bars.top[0][0] == CLASSES[1] and not bars.answered and len(bars.notes) == 3
    for width in (320, 640):
        panel = np.asarray(overlay.draw_panel(bars, width)).astype(int)
        shown = {}
        for color in (overlay.OTHERS, overlay.STREAM, overlay.BEST):
            filled = (panel == color).all(axis=2).sum(1)
            whole = filled + (panel == overlay.TRACK).all(axis=2).sum(1)
            inside = (filled > 0) & (whole > width / 5)  # rows of a bar of this colour
            edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
            middles = (edges[::2] + edges[1::2]) // 2
            shown[color] = (filled[middles] / whole[middles]).tolist()
        expected = [value for _, value in bars.top]
        assert shown[overlay.OTHERS] == pytest.approx(expected, abs=0.02) and not shown[overlay.BEST]
        pairs = list(zip(*bars.streams.values(), strict=True))
        assert shown[overlay.STREAM] == pytest.approx([value for pair in pairs for value in pair], abs=0.02)
        assert (panel == overlay.NOTE).all(axis=2).any()
