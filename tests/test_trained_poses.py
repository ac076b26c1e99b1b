"""How people were found and cleaned goes from the pose folder into the checkpoint, and `predict.py` follows it."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

import predict
import process_pose
from common.records import RECORD, root_record, write_record
from fusion.scores import load_scores
from pose.estimators import estimator_from_arguments
from pose.pipeline import RAW_NAME
from tests.helpers import assert_error, call_main, make_tiny, moving, train_script, write_video
from tests.prediction_data import CLASSES, FRAMES, fake_estimator, write_checkpoint
from training.resume import how_data_were_made

CLEAN = ("--smooth", "--max-people", 1, "--every", 2)
NAMES = {"v_one.avi": 40, "v_two.avi": 13}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Videos, pose flow of cleaned people, a checkpoint that knows of it, and the scores of the script for testing."""
    root = tmp_path_factory.mktemp("trained")
    for name, count in NAMES.items():
        write_video(root / "videos/Diving" / name, moving(count, (64, 48)), rate=25)
    lists = root / "lists"
    lists.mkdir()
    lists.joinpath("index.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, 1)))
    lists.joinpath("testlist04.txt").write_text("".join(f"Diving/{name}\n" for name in NAMES))
    lists.joinpath("trainlist04.txt").write_text("".join(f"{name}/other.avi\n" for name in CLASSES))
    write_checkpoint(root / "motion.pth.tar", 30, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pose, "estimator_from_arguments", lambda *args: fake_estimator())
        run = ("--frames", root / "frames", "--out", root / "flow", "--images", "--workers", 0, *CLEAN)
        for step in (
            ("extract_frames", root / "videos", root / "frames", *FRAMES, "--fps", 25, "--workers", 0),
            ("process_pose", *run),
        ):
            finished = call_main(*step)
            assert finished.returncode == 0, finished.stderr
    checkpoint = torch.load(root / "motion.pth.tar", weights_only=True)
    made = how_data_were_made(Namespace(data=root / "flow"), None, True)
    torch.save(checkpoint | made, root / "motion.pth.tar")
    options = ("--data", root / "flow", "--ucf-list", lists, "--class-index", "index.txt", "--workers", 0)
    resume = (
        "--resume",
        root / "motion.pth.tar",
        "--evaluate",
        "--record",
        root / "record",
        "--device",
        "cpu",
        "--no-amp",
    )
    finished = call_main("motion_pose_cnn_15", *options, *resume)
    assert finished.returncode == 0 and not finished.stderr, finished.stderr
    return root


def scores(root, monkeypatch, *options):
    seen, file = [], root / "result.json"
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: fake_estimator(seen))
    videos = (root / "videos/Diving" / name for name in NAMES)
    arguments = ("--motion", root / "motion.pth.tar", "--device", "cpu", "--no-amp", "--json", file, *options)
    finished = call_main("predict", *videos, *arguments)
    assert finished.returncode == 0, finished.stderr
    videos = json.loads(file.read_text())["videos"]
    return [[video["fused"]["logits"][name] for name in CLASSES] for video in videos], seen, finished.stderr


def test_predict_finds_and_cleans_people_as_for_training(trained, monkeypatch):
    wanted = load_scores(trained / "record/motion_pose_video_preds.pickle")
    wanted = [wanted[name[2:-4]] for name in NAMES]
    found, seen, _ = scores(trained, monkeypatch)
    assert np.abs(np.array(found) - wanted).max() < 1e-3
    assert len(seen) == 21 + 7  # every second frame and the last one, though the test looks at fewer than all
    for options in (("--no-smooth",), ("--max-people", 2), ("--min-score", 0.7)):
        other, *_ = scores(trained, monkeypatch, *options)
        assert np.abs(np.array(other) - wanted).max() > 1e-3
    given, *_ = scores(trained, monkeypatch, "--keypoints", trained / "flow")  # which are cleaned already
    assert np.abs(np.array(given) - wanted).max() < 1e-3


def test_another_network_than_in_training_is_said(trained, monkeypatch):
    checkpoint = torch.load(trained / "motion.pth.tar", weights_only=True)
    assert checkpoint["poses"] == {"model": "fake", "every": 2, "min_score": None, "max_people": 1, "smooth": 25}
    assert "warning" not in scores(trained, monkeypatch)[2]
    torch.save(checkpoint | {"poses": {"model": "onnx"}}, trained / "motion.pth.tar")
    try:
        warned = scores(trained, monkeypatch)[2]
        assert "motion.pth.tar was trained on people found with model = onnx, now it is fake" in warned
    finally:
        torch.save(checkpoint, trained / "motion.pth.tar")


def test_options_that_are_open_are_as_in_training(monkeypatch):
    made = []
    monkeypatch.setattr("pose.estimators.make_estimator", lambda model, *args, **options: made.append((model, options)))
    parser = predict.get_args_parser()
    for before in (None, {"model": "openpose"}, {"model": "gone"}, {"rtmpose_mode": "rtmo"}):
        estimator_from_arguments(parser.parse_args(["a.mp4"]), before)
        estimator_from_arguments(parser.parse_args(["a.mp4", "--model", "onnx"]), before)
    found = [(model, options["rtmpose_mode"]) for model, options in made[::2]]
    assert found == [("movenet", "balanced"), ("openpose", "balanced"), ("movenet", "balanced"), ("movenet", "rtmo")]
    assert {model for model, _ in made[1::2]} == {"onnx"}
    made.clear()
    for options in (["--pose-weights", "a.onnx"], ["--pose-weights", "a.pth"], ["--rtmpose-mode", "rtmo"]):
        estimator_from_arguments(parser.parse_args(["a.mp4", *options]))
    assert [model for model, _ in made] == ["onnx", "openpose", "rtmpose"]


def test_training_keeps_how_people_were_found(tmp_path):
    tiny = make_tiny(tmp_path)
    folder = next((tiny / "pose_flow").iterdir())
    settings = {"model": "onnx", "weights": "1a", "every": 1, "min_score": 0.2, "max_people": None, "smooth": 25.0}
    write_record(folder, {"people": settings})
    assert train_script("motion_pose", tiny, tmp_path / "a", "--epochs", 1, inline=True).returncode == 0
    checkpoint = tmp_path / "a/checkpoint.pth.tar"
    assert torch.load(checkpoint, weights_only=True)["poses"] == settings
    assert torch.load(checkpoint, weights_only=True)["frames"] is None
    write_record(folder, {"people": settings | {"model": "openpose"}})
    options = ("--resume", checkpoint, "--evaluate")
    finished = train_script("motion_pose", tiny, tmp_path / "test", *options, inline=True)
    assert finished.returncode == 0 and finished.stderr.count("its people were found with") == 1
    (folder / RECORD).unlink()
    options = ("--resume", checkpoint, "--epochs", 2)
    assert train_script("motion_pose", tiny, tmp_path / "b", *options, inline=True).returncode == 0
    assert torch.load(tmp_path / "b/checkpoint.pth.tar", weights_only=True)["poses"] == settings


def test_a_line_is_said_only_where_asked(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    write_record(tmp_path / "a", {"frames": {"every": 2}})
    model = Namespace(checkpoint={"frames": {"every": 3}}, path="a.pth.tar")
    for say in (False, True):
        made = how_data_were_made(Namespace(data=tmp_path, resume="a.pth.tar"), model, say)
        assert made["frames"]["every"] == 2 and made["poses"] is None
        assert capsys.readouterr().err.count("every 3") == say


# ---- what process_pose.py carries along ----


def test_frame_settings_go_with_redrawn_poses(trained, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keypoints.npz").write_bytes((trained / "flow" / name / RAW_NAME).read_bytes())
    redraw = ("process_pose", "--out", tmp_path, "--from-keypoints", "--workers", 0)
    assert call_main(*redraw).returncode == 0 and "frames" not in root_record(tmp_path)
    assert call_main(*redraw, "--redraw", "--frames", trained / "frames").returncode == 0
    made = root_record(trained / "frames")["frames"]
    assert made == root_record(tmp_path)["frames"] == root_record(trained / "flow")["frames"]
    for name in ("one", "two"):
        write_record(tmp_path / name, {"frames": {"every": 5}})
    assert_error(call_main(*redraw, "--frames", trained / "frames"), "every = 5", "choose another folder")
