"""Resuming with the same options, other options, other videos, and into other folders."""

import json
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from fusion.scores import load_scores
from network import CPU, Model
from tests.helpers import CLASSES, STREAMS, assert_error, call_main, start_training, train_script, train_well
from tests.prediction_data import write_checkpoint
from training.engine import Context
from training.options import parse_options
from training.resume import resume_training
from training.streams import SPATIAL
from utils import load_checkpoint, memory_format, pick_device, save_checkpoint

# The learning rate is cut after the second epoch in turn whose loss is not the lowest.
CUT = ("--lr", 1)
train = partial(train_well, "spatial")


def assert_same_run(one: Path, other: Path) -> None:
    """Equal weights, momentum, schedule, and records but for the times."""
    a, b = (load_checkpoint(record / "checkpoint.pth.tar") for record in (one, other))
    for name, tensor in a["state_dict"].items():
        assert torch.equal(tensor, b["state_dict"][name]), name
    for number, state in a["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], b["optimizer"]["state"][number]["momentum_buffer"])
    assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"] and a["scheduler"] == b["scheduler"]
    for name in ("rgb_train.csv", "rgb_test.csv"):
        tables = [
            pd.read_csv(record / name).drop(columns=["Batch Time", "Data Time"], errors="ignore")
            for record in (one, other)
        ]
        assert tables[0].equals(tables[1]), name


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """The record of 5 epochs without interruption, whose learning rate was cut on the way."""
    record = tmp_path_factory.mktemp("whole")
    train(tiny, record, *CUT, "--epochs", 5)
    rates = pd.read_csv(record / "rgb_train.csv")["lr"]
    assert rates[0] == 1 and rates[4] < 0.5, rates
    assert load_checkpoint(record / "checkpoint.pth.tar")["optimizer"]["param_groups"][0]["momentum"] == 0.9
    return record


def test_the_same_command_resumes_bit_for_bit_wherever_it_was_stopped(tiny, whole, tmp_path):
    options = (*CUT, "--epochs", 5)
    process = start_training("spatial", tiny, tmp_path, *options)
    while process.poll() is None and not (tmp_path / "rgb_train.csv").exists():
        time.sleep(0.01)
    while process.poll() is None and len(pd.read_csv(tmp_path / "rgb_train.csv")) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] < 5
    finished = train(tiny, tmp_path, *options, "--resume", tmp_path / "checkpoint.pth.tar")
    assert "in place of" not in finished.stdout
    assert_same_run(tmp_path, whole)


def test_options_that_are_not_given_are_the_checkpoints(tiny, whole, tmp_path):
    train(tiny, tmp_path, *CUT, "--epochs", 2)
    train(tiny, tmp_path, "--resume", tmp_path / "checkpoint.pth.tar", "--epochs", 5)
    assert_same_run(tmp_path, whole)
    again = train(tiny, tmp_path, "--resume", tmp_path / "checkpoint.pth.tar")
    assert "5 epochs are done" in again.stdout


def test_a_checkpoint_alone_goes_on_in_its_own_folder_with_its_own_data(tiny, tmp_path, monkeypatch):
    train(tiny, tmp_path / "B", *CUT, "--epochs", 1, "--val-groups", "6")
    monkeypatch.chdir(tmp_path)
    machine = ("--workers", 0, "--device", "cpu", "--resume")
    finished = call_main("spatial_cnn_15", *machine, "B/checkpoint.pth.tar", "--epochs", 2)
    assert finished.returncode == 0, finished.stderr
    assert pd.read_csv(tmp_path / "B/rgb_val.csv")["Epoch"].tolist() == [0, 1]
    (tmp_path / "B/spatial_video_preds.pickle").unlink()
    finished = call_main("spatial_cnn_15", *machine, "B/model_best.pth.tar", "--evaluate")
    assert finished.returncode == 0, finished.stderr
    assert len(load_scores(tmp_path / "B/spatial_video_preds.pickle")) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["B"]
    moved = ("--data", tmp_path / "moved", "--ucf-list", tiny / "lists")
    assert_error(call_main("spatial_cnn_15", *machine, "B/model_best.pth.tar", *moved), "moved", "--data")


def test_other_options_are_applied_and_said(tiny, tmp_path):
    train(tiny, tmp_path, *CUT, "--epochs", 1)
    checkpoint = tmp_path / "checkpoint.pth.tar"
    given = ("--resume", checkpoint, "--lr", "0.01", "--momentum", "0.5", "--epochs", 2)
    finished = train(tiny, tmp_path, *given)
    for words in ("lr 0.01", "momentum 0.5", "epochs 2"):
        assert words in finished.stdout.splitlines()[0]
    state = load_checkpoint(checkpoint)
    group = state["optimizer"]["param_groups"][0]
    assert group["lr"] == 0.01 and group["momentum"] == 0.5
    assert pd.read_csv(tmp_path / "rgb_train.csv")["lr"].tolist() == [1, 0.01]
    assert "in place of" not in train(tiny, tmp_path, *given).stdout  # they are the checkpoint's now


def test_options_are_given_or_the_checkpoints_or_the_recipes(tmp_path):
    from spatial_cnn_15 import get_args_parser

    saved = {"lr": 0.2, "epochs": 15, "freeze_bn": "all", "momentum": 0.7, "val_groups": [2, 3], "recipe": "original"}
    saved |= {"workers": 99, "data": "d", "every": 2, "least_steps": 800, "amp": True}
    save_checkpoint(tmp_path / "c.tar", {"options": saved, "arch": "resnet18"})

    def parse(*words):
        return parse_options(get_args_parser(), "spatial", ["--resume", str(tmp_path / "c.tar"), *words])

    args = parse("--lr", "0.1", "--epochs=15", "--freeze-bn", "none", "--fps", "25")
    assert args.changed == {"lr": 0.1, "freeze_bn": "none"}
    assert (args.lr, args.momentum, args.val_groups, args.recipe) == (0.1, 0.7, [2, 3], "original")
    assert (args.data, args.record, args.every, args.fps) == (Path("d"), tmp_path, None, 25)
    assert args.workers != 99 and args.least_steps == 0 and args.amp is None  # what this machine makes of them
    assert parse("--val-list", "x.txt").val_groups == () and parse("--no-amp").changed == {"amp": False}
    assert parse("--recipe", "modern").changed["lr"] == 3e-3


def test_momentum_takes_the_layout_of_its_weights():
    """The fused optimiser reads both in memory order; the original code saved contiguous tensors."""
    steps = []
    for fused in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 4, 3))
        network.to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(1)
        momentum = [torch.randn(weight.shape, generator=generator) for weight in network.parameters()]
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=fused)
        state = optimizer.state_dict() | {"state": {i: {"momentum_buffer": m} for i, m in enumerate(momentum)}}
        model = Model(network, "resnet18", 224, None, {"epoch": 3, "best_prec1": 50.0, "optimizer": state}, "c.tar")
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        assert resume_training(model, {}, Context(SPATIAL, CPU, optimizer=optimizer), scheduler) == (4, 50.0)
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        steps.append([weight.detach().clone() for weight in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*steps, strict=True))


# ---- one folder, one run ----


def test_weights_without_a_training_state_are_trained_anew(tiny, tmp_path):
    write_checkpoint(tmp_path / "new.tar", 3, 0, CLASSES)
    checkpoint = load_checkpoint(tmp_path / "new.tar")
    for number, content in enumerate((checkpoint, checkpoint["state_dict"])):
        torch.save(content, tmp_path / "net.pth")
        finished = train(tiny, tmp_path / str(number), "--resume", tmp_path / "net.pth", "--epochs", 1)
        assert "net.pth: has no optimiser state; training begins anew" in finished.stdout
        assert pd.read_csv(tmp_path / str(number) / "rgb_train.csv")["Epoch"].tolist() == [0]


def test_a_folder_that_holds_a_run_is_not_overwritten_in_silence(tiny, whole, tmp_path):
    record = tmp_path / "record"
    shutil.copytree(whole, record)
    (record / "spatial_video_val_preds.pickle").write_bytes(b"of an older run")
    (record / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in record.iterdir()}
    other = whole / "checkpoint.pth.tar"
    assert_error(train_script("spatial", tiny, record, "--epochs", 1), str(record), "--overwrite")
    assert_error(train_script("spatial", tiny, record, "--resume", other), str(record), "--overwrite")
    own = ("--resume", record / "checkpoint.pth.tar", "--overwrite")
    assert_error(train_script("spatial", tiny, record, *own), "--overwrite would remove")
    assert_error(train_script("spatial", tiny, record, "--overwrite", "--split", "09"), "trainlist09")
    assert {path.name: path.read_bytes() for path in record.iterdir()} == before
    train(tiny, record, "--epochs", 1, "--overwrite")
    assert (record / "notes.txt").read_text() == "mine"
    assert not (record / "spatial_video_val_preds.pickle").exists()
    assert len(pd.read_csv(record / "rgb_train.csv")) == 1
    for stream in STREAMS:  # what the other stream left does not count, nor does a run without a checkpoint
        (tmp_path / stream).mkdir()
    (tmp_path / "spatial" / "rgb_train.csv").write_text((record / "rgb_train.csv").read_text())
    train(tiny, tmp_path / "spatial", "--epochs", 1)


def test_two_runs_in_one_folder_exclude_each_other(tiny, tmp_path):
    first = start_training("spatial", tiny, tmp_path, "--epochs", 1000)
    try:
        assert "epoch 0" in first.stdout.readline()
        finished = train_script("spatial", tiny, tmp_path, "--overwrite")
        assert_error(finished, str(tmp_path), "another run is training there")
    finally:
        first.kill()
        first.communicate()
    train(tiny, tmp_path, "--epochs", 1, "--overwrite")  # the killed process keeps no lock


# ---- other videos ----


def test_a_checkpoint_is_not_tested_on_what_it_was_trained_on(own_tiny, tmp_path):
    lists, record = own_tiny / "lists", tmp_path / "record"
    train(own_tiny, record, "--epochs", 1, "--val-groups", "6")
    train_lines, test_lines = ((lists / f"{name}list04.txt").read_text() for name in ("train", "test"))
    (lists / "trainlist05.txt").write_text(test_lines)
    (lists / "testlist05.txt").write_text(train_lines)
    checkpoint = record / "checkpoint.pth.tar"
    test = ("--resume", checkpoint, "--evaluate")
    for options in ((*test, "--split", "05", "--val-groups", "1"), ("--resume", checkpoint, "--val-groups", "5")):
        finished = train_script("spatial", own_tiny, record, *options)
        assert_error(finished, str(checkpoint), "--allow-other-split", "validation set 6")
    train(own_tiny, record, *test, "--val-groups", "5", "--allow-other-split")
    # Its own validation set comes with the checkpoint; another test list of the same training list is no danger.
    (lists / "trainlist06.txt").write_text(train_lines)
    (lists / "testlist06.txt").write_text(test_lines.splitlines()[0])
    train(own_tiny, record, *test, "--split", "06")
    evaluation = json.loads((record / "evaluation.json").read_text())
    assert set(evaluation["figures"]) == {"val", "test"} and evaluation["arguments"]["val_groups"] == [6]


def test_validation_scores_need_to_know_the_training_videos(tiny, tmp_path):
    write_checkpoint(tmp_path / "new.tar", 3, 0)
    checkpoint = load_checkpoint(tmp_path / "new.tar") | {"optimizer": {}}
    known = ("epoch", "state_dict", "best_prec1", "optimizer")
    torch.save({name: checkpoint[name] for name in known}, tmp_path / "original.tar")
    test = ("--resume", tmp_path / "original.tar", "--evaluate")
    finished = train_script("spatial", tiny, tmp_path / "r", *test, "--val-groups", "6")
    assert_error(finished, "original.tar", "its own: not known", "--allow-other-split")
    train(tiny, tmp_path / "r", *test)


def test_a_new_folder_in_which_no_epoch_is_better(tiny, tmp_path):
    train(tiny, tmp_path / "first", "--epochs", 1, "--val-groups", "6")
    checkpoint = load_checkpoint(tmp_path / "first" / "checkpoint.pth.tar")
    save_checkpoint(tmp_path / "perfect.tar", checkpoint | {"best_prec1": 100.0})
    finished = train(tiny, tmp_path / "second", "--resume", tmp_path / "perfect.tar", "--epochs", 2)
    assert "model selection starts anew" in finished.stdout and "test: loss" in finished.stdout
    assert load_checkpoint(tmp_path / "second" / "model_best.pth.tar")["epoch"] == 2
    # Without an epoch to train there is the network that was resumed.
    finished = train(tiny, tmp_path / "third", "--resume", tmp_path / "perfect.tar", "--epochs", 1)
    assert "test: loss" in finished.stdout and not (tmp_path / "third" / "model_best.pth.tar").exists()


# ---- devices ----


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device("cuda", rank).index for rank in range(4)] == [0, 1, 0, 1]
    # torch computes wrong results in it.
    assert memory_format(torch.device("mps")) == torch.contiguous_format
    assert memory_format(torch.device("cpu")) == memory_format(torch.device("cuda")) == torch.channels_last
