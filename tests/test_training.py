"""Runs of the real scripts on tiny data."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from common.records import write_record
from dataloader.sampling import stack_indices
from dataloader.sampling import test_starts as starts_of
from fusion.scores import load_scores
from network import build_network, torchvision_names
from pose.keypoints import FILE_NAME, save_keypoints
from tests.helpers import CLASSES, STREAMS, assert_error, call_main, train_script, train_well
from tests.reference_data import state_dict_shapes
from utils import load_checkpoint

TIMES = ["Batch Time", "Data Time"]


def records(stream, record):
    return [pd.read_csv(record / f"{STREAMS[stream][2]}_{name}.csv") for name in ("train", "test")]


@pytest.mark.parametrize("stream", STREAMS)
def test_training_writes_records_checkpoints_and_scores(stream, trained):
    record = trained(stream)
    train, test = records(stream, record)
    assert list(train) == ["Epoch", "Batch Time", "Data Time", "Loss", "Prec@1", "Prec@3", "lr"]
    assert list(test) == ["Epoch", "Batch Time", "Loss", "Prec@1", "Prec@3"]
    assert list(train["Epoch"]) == list(test["Epoch"]) == [0, 1]
    checkpoint = torch.load(record / "checkpoint.pth.tar", weights_only=True)
    assert checkpoint["epoch"] == 2 and checkpoint["classes"] == list(CLASSES)
    assert checkpoint["arch"] == ("stgcnpp_views" if stream == "skeleton" else "test_resnet")
    assert checkpoint["best_prec1"] == test["Prec@1"].max()
    with open(record / f"{stream}_video_preds.pickle", "rb") as file:
        scores = pickle.load(file)
    assert len(scores) == 6 and all(v.dtype == np.float32 and v.shape == (3,) for v in scores.values())
    right = [np.argmax(vector) == CLASSES.index(name.split("_")[0]) for name, vector in scores.items()]
    assert 100 * np.mean(right) == pytest.approx(test["Prec@1"].max())
    summary = json.loads((record / "summary.json").read_text())
    assert summary["figures"]["best_prec1"] == pytest.approx(test["Prec@1"].max())
    assert summary["seed"] == 0 and summary["versions"]["torch"] == torch.__version__ and summary["git_commit"]
    assert Image.open(record / "curves.png").size[0] > 300


@pytest.mark.parametrize("stream", ["motion_pose", "skeleton"])
def test_resume_goes_on_with_the_next_epoch_bit_for_bit(stream, trained, tiny, tmp_path):
    record = trained(stream)
    train_well(stream, tiny, tmp_path, "--epochs", 1)
    half = tmp_path / "checkpoint.pth.tar"
    # Other workers, same numbers: what is drawn depends on seed, epoch and video only.
    train_well(stream, tiny, tmp_path, "--epochs", 2, "--resume", half, "--workers", 2)
    for resumed, whole in zip(records(stream, tmp_path), records(stream, record), strict=True):
        assert list(resumed["Epoch"]) == [0, 1]
        columns = [column for column in whole if column not in TIMES]
        assert resumed[columns].equals(whole[columns])
    ours, theirs = (load_checkpoint(folder / "checkpoint.pth.tar") for folder in (tmp_path, record))
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    names = "model_best.pth.tar", f"{stream}_video_preds.pickle"
    assert load_checkpoint(tmp_path / names[0])["epoch"] == load_checkpoint(record / names[0])["epoch"]
    assert (tmp_path / names[1]).read_bytes() == (record / names[1]).read_bytes()


@pytest.mark.parametrize("stream", STREAMS)
def test_evaluate_writes_scores_and_nothing_else(stream, trained, tiny, tmp_path):
    record = tmp_path / "record"
    shutil.copytree(trained(stream), record)
    before = {path.name: path.read_bytes() for path in record.iterdir()}
    (record / f"{stream}_video_preds.pickle").unlink()
    train_well(stream, tiny, record, "--resume", record / "model_best.pth.tar", "--evaluate")
    after = {path.name: path.read_bytes() for path in record.iterdir()}
    figures = json.loads(after.pop("evaluation.json"))["figures"]["test"]
    assert figures["prec1"] == json.loads(before["summary.json"])["figures"]["best_prec1"]
    assert after == before


def plain_score(network, stream, folder, size):
    """The mean of 19 logit vectors, computed one by one with Pillow and numpy."""
    frames = len(list(folder.iterdir()))
    logits = []
    for start in starts_of(frames):
        planes = []
        for frame in [start] if stream == "spatial" else stack_indices(start, frames):
            image = Image.open(folder / f"frame{frame:06d}.jpg").resize((size, size), Image.Resampling.BILINEAR)
            plane = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
            if stream == "spatial":
                mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
                plane = (plane - mean[:, None, None]) / std[:, None, None]
            planes.append(plane)
        with torch.inference_mode():
            logits.append(network(torch.from_numpy(np.concatenate(planes))[None])[0].numpy())
    return np.mean(logits, axis=0)


@pytest.mark.parametrize("stream", ["spatial", "motion_pose"])
def test_checkpoint_of_the_original_format_evaluates(stream, tiny, tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in state_dict_shapes(stream).items():
        if name.startswith("fc_custom"):
            shape = [len(CLASSES), *shape[1:]]
        if "tracked" in name:
            state[name] = torch.tensor(7)
        elif "running_var" in name or ("bn" in name and "weight" in name):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = max(int(np.prod(shape[1:])), 1)
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    optimizer = {"state": {}, "param_groups": []}
    values = {"epoch": 11, "state_dict": state, "best_prec1": 61.5, "optimizer": optimizer}
    torch.save(values, tmp_path / "original.pth.tar", _use_new_zipfile_serialization=False)

    arguments = ("--resume", tmp_path / "original.pth.tar", "--evaluate")
    train_well(stream, tiny, tmp_path / "record", *arguments)
    with open(tmp_path / "record" / f"{stream}_video_preds.pickle", "rb") as file:
        scores = pickle.load(file)
    network = build_network("resnet18", 3 if stream == "spatial" else 30, len(CLASSES)).eval()
    network.load_state_dict(torchvision_names(state))
    for name, score in scores.items():
        folder = tiny / STREAMS[stream][1] / (f"v_{name}" if stream == "spatial" else name)
        expected = plain_score(network, stream, folder, 32)
        # Pillow and torch round a resized pixel differently now and then.
        assert np.abs(score - expected).max() < 2e-2 * np.abs(expected).max(), name


@pytest.mark.parametrize(("stream", "other"), [("motion_pose", "skeleton"), ("skeleton", "spatial")])
def test_the_checkpoint_of_another_stream_is_refused(stream, other, trained, tiny, tmp_path):
    best = trained(stream) / "model_best.pth.tar"
    finished = train_script(other, tiny, tmp_path, "--resume", best, "--evaluate")
    assert_error(finished, str(best), "input channels", "give a checkpoint of this stream")


def test_mistakes_end_in_one_line(trained, tiny, tmp_path):
    best, empty = trained("motion_pose") / "model_best.pth.tar", tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        (("--data", tmp_path / "nowhere"), ("nowhere", "--data")),
        (("--data", empty), ("empty", "--data")),
        (("--evaluate",), ("--resume",)),
        (("--resume", tmp_path / "no.tar"), ("no.tar", "no such file")),
        (("--arch", "resnet34", "--resume", best), ("test_resnet", "--arch")),
        (("--split", "09"), ("trainlist09.txt",)),
        (("--batch-size", "0"), ("--batch-size",)),
        (("--val-groups", "9"), ("--val-groups",)),
        (("--device", "cuda"), ("cuda",)),
        (("--weights", tmp_path / "w.pth"), ("w.pth",)),
    ):
        assert_error(train_script("motion_pose", tiny, tmp_path, *arguments), *words)


def test_imagenet_weights_that_cannot_be_downloaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    places = ("--data", tiny / "frames", "--ucf-list", tiny / "lists", "--record", tmp_path, "--device", "cpu")
    assert_error(call_main("spatial_cnn_15", *places), "--weights FILE", "--weights none")


def test_skip_broken_leaves_videos_out_and_lists_them(own_tiny, tmp_path):
    (own_tiny / "frames" / "v_Archery_g03_c01" / "frame000002.jpg").write_bytes(b"\xff\xd8broken")
    for image in (own_tiny / "frames" / "v_TaiChi_g01_c01").iterdir():
        image.write_bytes(b"")
    shutil.rmtree(own_tiny / "frames" / "v_Diving_g01_c01")
    assert_error(train_script("spatial", own_tiny, tmp_path), "Diving_g01_c01", "1 of the 6")
    finished = train_well("spatial", own_tiny, tmp_path, "--epochs", 2, "--skip-broken")
    assert "skipped TaiChi_g01_c01" in finished.stderr and "skipped Diving_g01_c01" in finished.stderr
    assert len(load_scores(tmp_path / "spatial_video_preds.pickle")) == 4


def test_held_out_groups_choose_and_the_test_list_is_read_last(own_tiny, tmp_path):
    (own_tiny / "flow" / "u").rename(own_tiny / "flow" / "all")
    (own_tiny / "flow" / "u").mkdir()
    for path in (own_tiny / "flow" / "all").iterdir():
        if not path.name.endswith(("_g01_c01", "_g02_c01")):
            path.rename(own_tiny / "flow" / "u" / path.name)
    arguments = ("--epochs", 1, "--val-groups", "5,6")
    finished = train_script("flow", own_tiny, tmp_path / "record", *arguments)
    # The epoch is trained and chosen without a test video on disk; only then the test list is missed.
    assert_error(finished, "6 of the 6 listed videos")
    assert "epoch 0" in finished.stdout and (tmp_path / "record" / "model_best.pth.tar").exists()
    for path in (own_tiny / "flow" / "all").iterdir():
        path.rename(own_tiny / "flow" / "u" / path.name)
    finished = train_well("flow", own_tiny, tmp_path / "record", *arguments, "--overwrite")
    figures = json.loads((tmp_path / "record" / "summary.json").read_text())["figures"]
    assert {"train", "val", "test", "best_prec1"} <= set(figures)
    for name, groups in (("val_preds", {"g05", "g06"}), ("preds", {"g01", "g02"})):
        names = load_scores(tmp_path / "record" / f"flow_video_{name}.pickle")
        assert len(names) == 6 and {name.split("_")[1] for name in names} == groups


def test_swapped_data_folders_are_refused(own_tiny, tmp_path):
    keypoints = np.zeros((0, 18, 3), np.float32)
    save_keypoints(own_tiny / "pose_flow" / "TaiChi_g01_c01" / FILE_NAME, keypoints, np.zeros(0, int), 8, (40, 40))
    write_record(next((own_tiny / "frames").glob("*Archery_g01*")), {"frames": {"every": 1}})
    finished = train_script("spatial", own_tiny, tmp_path, "--data", own_tiny / "pose_flow")
    assert_error(finished, "pose_flow", "is pose flow")
    finished = train_script("motion_pose", own_tiny, tmp_path, "--data", own_tiny / "frames")
    assert_error(finished, "frames", "RGB frames")


def test_a_validation_list_chooses_the_model(own_tiny, tmp_path):
    lists = own_tiny / "lists"
    lines = (lists / "trainlist04.txt").read_text().splitlines(keepends=True)
    (lists / "vallist04.txt").write_text("".join(line for line in lines if "_g06_" in line))
    (lists / "trainlist04.txt").write_text("".join(line for line in lines if "_g06_" not in line))
    arguments = ("--epochs", 1, "--val-list", "vallist04.txt")
    train_well("spatial", own_tiny, tmp_path / "list", *arguments)
    assert len(load_scores(tmp_path / "list" / "spatial_video_val_preds.pickle")) == 3
    (lists / "trainlist04.txt").write_text("".join(lines))
    groups = ("--epochs", 1, "--val-groups", "6")
    train_well("spatial", own_tiny, tmp_path / "groups", *groups)
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoint.pth.tar") for name in ("list", "groups"))
    assert all(torch.equal(tensor, ours["state_dict"][name]) for name, tensor in theirs["state_dict"].items())
    assert_error(train_script("spatial", own_tiny, tmp_path, *groups, "--val-list", "x.txt"), "--val-list")
