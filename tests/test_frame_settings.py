"""How frames were made travels with the data into the checkpoint, and `predict.py` follows it."""

import json
import shutil

import pytest
import torch

from common.records import write_record
from tests.helpers import assert_error, call_main, make_tiny, train_script
from tests.test_extract_frames import timed


def note(root, frames):
    for folder in (root / "frames").iterdir():
        write_record(folder, {"frames": frames})


@pytest.fixture(scope="module")
def trained(trained, tmp_path_factory):
    """A checkpoint of frames made with 20 fps, one of frames that tell nothing, and a video of 60 fps."""
    root = make_tiny(tmp_path_factory.mktemp("settings"))
    shutil.copytree(trained("spatial"), root / "old")
    note(root, {"every": 1, "fps": 20, "short_side": 40, "quality": 80, "rate": 20})
    assert train_script("spatial", root, root / "new", "--epochs", 2, inline=True).returncode == 0
    timed(root / "a.mkv", [round(1000 * i / 60) for i in range(60)])
    return root


def predict(root, record, *options):
    finished = call_main(
        *("predict", root / "a.mkv", "--spatial", root / record / "checkpoint.pth.tar", "--device", "cpu"),
        *("--json", root / "out.json", *options),
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads((root / "out.json").read_text())
    return result["frames"], result["videos"][0]["frames"], result["videos"][0]["fused"]["logits"]


def test_the_checkpoint_keeps_the_record_and_old_data_have_none(trained):
    load = lambda record: torch.load(trained / record / "checkpoint.pth.tar", weights_only=True)  # noqa: E731
    assert load("new")["frames"] == {"every": 1, "fps": 20, "short_side": 40, "quality": 80, "rate": 20}
    assert load("old")["frames"] is None


def test_predict_follows_the_checkpoint_and_options_win(trained):
    by_hand = predict(trained, "old", "--fps", 20, "--short-side", 40, "--quality", 80)
    assert predict(trained, "new")[1:] == by_hand[1:] and by_hand[1] == 20
    usual = {"every": 1, "fps": None, "short_side": 256, "quality": 95, "rate": None}
    assert predict(trained, "old")[:2] == (usual, 60)
    settings, count, _ = predict(trained, "new", "--every", 2, "--quality", 90)
    assert settings == {"every": 2, "fps": None, "short_side": 40, "quality": 90, "rate": None} and count == 30


def test_streams_of_other_frames_are_not_fused_unless_told(trained):
    checkpoint = torch.load(trained / "new/checkpoint.pth.tar", weights_only=True)
    state = checkpoint["state_dict"]
    state["conv1.0.weight"] = state["conv1.0.weight"].repeat(1, 10, 1, 1)
    torch.save(
        checkpoint | {"frames": {"every": 3}, "state_dict": state, "in_channels": 30}, trained / "motion.pth.tar"
    )
    options = ("--spatial", trained / "new/checkpoint.pth.tar", "--motion", trained / "motion.pth.tar")
    options = ("predict", trained / "a.mkv", *options, "--keypoints", trained, "--device", "cpu")
    assert_error(call_main(*options), "fps 20, short side 40, quality 80", "every 3, short side 40", "choose with")
    agreed = call_main(*options, "--fps", 20, "--short-side", 40, "--quality", 80)
    assert agreed.returncode == 1 and "no keypoints" in agreed.stderr  # it went on to look for people


def test_testing_on_other_frames_is_said(trained):
    note(trained, {"every": 2})
    options = ("--resume", trained / "new/checkpoint.pth.tar", "--evaluate")
    finished = train_script("spatial", trained, trained / "test", *options, inline=True)
    assert finished.returncode == 0 and "every 2" in finished.stderr and "fps 20" in finished.stderr


@pytest.mark.parametrize("rate, every, frames", [(30, 2, 30), (59, 1, 60), (None, 1, 60)])
def test_predict_follows_the_rate_of_training(trained, rate, every, frames, capsys):
    """A video of 60 frames a second: a rate within a tenth of its own takes each frame once."""
    checkpoint = torch.load(trained / "old/checkpoint.pth.tar", weights_only=True)
    made = {"every": every, "fps": None, "short_side": 40, "quality": 80, "rate": rate}
    (trained / "rate").mkdir(exist_ok=True)
    torch.save(checkpoint | {"frames": made}, trained / "rate/checkpoint.pth.tar")
    assert predict(trained, "rate")[1] == frames
    assert predict(trained, "rate", "--every", 3)[1] == 20
    options = ("--spatial", trained / "rate/checkpoint.pth.tar", "--device", "cpu")
    timeline = call_main("predict", trained / "a.mkv", "--timeline", trained / "t.png", *options)
    assert timeline.returncode == 0 and ("do not tell" in timeline.stderr) == (rate is None)
    content = json.loads((trained / "t.json").read_text())
    assert (content["frames"], content["rate"]) == (frames, pytest.approx(frames, abs=0.5))
