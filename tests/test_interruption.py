"""Signals, kills, full disks and numbers that are not finite."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common import atomic
from tests.helpers import assert_error, start_training, train_script, train_well
from utils import load_checkpoint, save_checkpoint, write_record


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_ends_the_run(tiny, tmp_path, signum):
    process = start_training("skeleton", tiny, tmp_path, "--epochs", 1000, "--workers", 2)
    deadline = time.time() + 120
    while not (tmp_path / "checkpoint.pth.tar").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signum)  # the workers too, as a terminal and a cluster do
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "Traceback" not in err
    assert f"--resume {tmp_path / 'checkpoint.pth.tar'}" in err.strip().splitlines()[-1]
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] >= 1


def test_a_killed_run_resumes_bit_for_bit(tiny, tmp_path):
    process = start_training("flow", tiny, tmp_path / "killed", "--epochs", 4)
    checkpoint = tmp_path / "killed/checkpoint.pth.tar"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for record, resume in (("killed", ("--resume", checkpoint)), ("whole", ())):
        train_well("flow", tiny, tmp_path / record, "--epochs", 4, *resume)
    killed, whole = ((tmp_path / record / "flow_video_preds.pickle").read_bytes() for record in ("killed", "whole"))
    assert killed == whole
    killed, whole = (load_checkpoint(tmp_path / record / "checkpoint.pth.tar") for record in ("killed", "whole"))
    assert killed["epoch"] == whole["epoch"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, killed["state_dict"][name]), name


@pytest.mark.parametrize("stream", ["spatial", "skeleton"])
def test_a_loss_that_is_not_finite_is_named(stream, tiny, tmp_path):
    finished = train_script(stream, tiny, tmp_path, "--lr", "1e30", "--epochs", 5)
    assert_error(finished, "epoch", "batch", "_c01")


@pytest.mark.skipif(sys.platform == "win32", reason="the system cannot limit the size of files")
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(trained, tiny, tmp_path):
    import resource

    shutil.copytree(trained("spatial"), tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, limits[1]))  # a checkpoint has 4 MiB
    try:
        arguments = ("--resume", tmp_path / "checkpoint.pth.tar", "--epochs", 3)
        finished = train_script("spatial", tiny, tmp_path, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_error(finished, "File too large", ".pth.tar")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_atomic_write_keeps_the_old_file_on_any_error(tmp_path):
    path = tmp_path / "a.txt"
    with atomic.atomic_write(path, "w") as file:
        file.write("old")
    with pytest.raises(RuntimeError), atomic.atomic_write(path, "w") as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_replaced_folder_comes_back_after_a_kill_between_the_renames(tmp_path, monkeypatch):
    target = tmp_path / "video"
    with atomic.atomic_folder(target, atomic.temporary_name(target)) as folder:
        (folder / "a").write_text("old")
    renames = []
    real = atomic.Path.rename

    def killed_at_the_second(self, to):
        renames.append(to)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return real(self, to)

    monkeypatch.setattr(atomic.Path, "rename", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt), atomic.atomic_folder(target, atomic.temporary_name(target)) as folder:
        (folder / "a").write_text("new")
    monkeypatch.undo()
    assert not target.exists()
    atomic.recover_folders(tmp_path)
    assert (target / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["video"]


def test_records_hold_each_epoch_once(tmp_path):
    path = tmp_path / "train.csv"
    for epoch, loss in ((0, 1 / 3), (1, 0.1), (2, 0.2), (1, 0.7)):
        write_record(path, {"Epoch": epoch, "Loss": loss})
    assert path.read_text() == f"Epoch,Loss\n0,{1 / 3!r}\n1,0.7\n"


def test_scores_that_are_not_finite_are_refused(trained, tiny, tmp_path):
    checkpoint = load_checkpoint(trained("spatial") / "checkpoint.pth.tar")
    checkpoint["state_dict"]["fc.bias"][0] = np.nan
    save_checkpoint(tmp_path / "nan.pth.tar", checkpoint)
    assert_error(
        train_script("spatial", tiny, tmp_path, "--resume", tmp_path / "nan.pth.tar", "--evaluate"), "not finite"
    )


def leave_behind(path: Path, days: float) -> Path:
    """What a process killed that many days ago leaves: a half written file or folder under a temporary name."""
    left = atomic.temporary_name(path)
    if path.suffix:
        left.write_bytes(b"half")
    else:
        left.mkdir(parents=True)
        (left / "frame000001.jpg").write_bytes(b"half")
    then = time.time() - days * 86400
    os.utime(left, (then, then))
    return left


def test_leftovers_of_killed_runs_are_removed_after_a_day(tmp_path):
    old = [leave_behind(tmp_path / name, 1.1) for name in ("a.txt", "video")]
    young = [leave_behind(tmp_path / name, 0.9) for name in ("a.txt", "video")]
    (tmp_path / "b.txt").write_text("mine")
    atomic.recover_folders(tmp_path)
    assert not any(path.exists() for path in old) and all(path.exists() for path in young)
    assert (tmp_path / "b.txt").read_text() == "mine"
    atomic.recover_folders(tmp_path / "nowhere")
    assert len({atomic.temporary_name(tmp_path / "a.txt") for _ in range(100)}) == 100


def test_a_run_removes_what_killed_runs_left(tiny, tmp_path):
    old, young = (leave_behind(tmp_path / "checkpoint.pth.tar", days) for days in (2, 0))
    train_well("spatial", tiny, tmp_path, "--epochs", 1)
    assert not old.exists() and young.exists()
