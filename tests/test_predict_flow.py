"""predict.py --flow against the steps that it stands for, and the fusion of three streams."""

import json

import numpy as np
import pytest

from common.optical_flow import flow_method
from fusion.metrics import fuse
from fusion.scores import load_scores, save_scores
from tests.helpers import assert_error, call_main
from tests.prediction_data import FRAMES, VIDEOS
from utils import load_checkpoint, save_checkpoint


@pytest.fixture
def data(predicted):
    return predicted


def test_scores_are_those_of_the_scripts(data, tmp_path):
    videos = [data / "videos" / path for _, path, _, _ in VIDEOS]
    streams = ("--spatial", data / "spatial.pth.tar", "--flow", data / "flow.pth.tar")
    finished = call_main(
        "predict", *videos, *streams, *FRAMES, "--device", "cpu", "--no-amp", "--json", tmp_path / "result.json"
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "result.json").read_text())["videos"]
    for stream in ("spatial", "flow"):
        expected = load_scores(data / f"record/{stream}/{stream}_video_preds.pickle")
        assert np.ptp(np.stack(list(expected.values())), axis=0).max() > 0.05  # so that videos can be told apart
        for result, (name, *_) in zip(results, VIDEOS, strict=True):
            logits = result["streams"][stream]["logits"]
            ours = [logits[label] for label in ("Tai Chi", "Bäume fällen", "Diving")]
            assert np.allclose(ours, expected[name], atol=2e-3), (stream, name)


def test_three_pickles_fuse(data, tmp_path):
    tables = {}
    for stream in ("spatial", "flow"):
        tables[stream] = load_scores(data / f"record/{stream}/{stream}_video_preds.pickle")
    tables["motion_pose"] = {name: vector[::-1] for name, vector in tables["flow"].items()}
    for stream, table in tables.items():
        save_scores(tmp_path / f"{stream}_video_preds.pickle", table)
    pickles = [tmp_path / f"{stream}_video_preds.pickle" for stream in ("spatial", "motion_pose", "flow")]
    lists = ("--ucf-list", data / "lists", "--class-index", "index.txt", "--out", tmp_path / "out")
    finished = call_main("average_fusion", *pickles, *lists, "--weights", 1, 1, 2)
    assert finished.returncode == 0, finished.stderr
    fused = load_scores(tmp_path / "out/fusion_video_preds.pickle")
    for name, vector in fused.items():
        parts = [tables[stream][name][None] for stream in ("spatial", "motion_pose", "flow")]
        assert np.allclose(vector, fuse(parts, (1, 1, 2))[0], atol=1e-6)


def test_the_flow_is_made_as_in_training(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("training.streams.flow_method", lambda name, device: asked.append(name) or flow_method("dis"))
    trained = load_checkpoint(data / "flow.pth.tar") | {"options": {"flow_method": "raft"}}
    save_checkpoint(tmp_path / "raft.pth.tar", trained)
    video = data / "videos" / VIDEOS[1][1]
    for checkpoint in (data / "flow.pth.tar", tmp_path / "raft.pth.tar"):
        assert call_main("predict", video, "--flow", checkpoint, *FRAMES, "--device", "cpu").returncode == 0
    assert asked == ["dis", "raft"]
    assert_error(call_main("predict", video, "--flow", data / "spatial.pth.tar"), "spatial.pth.tar", "input channels")
