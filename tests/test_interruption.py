"""Signals, kills, full disks and numbers that are not finite."""

import builtins
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import utils
from common import atomic, cli
from tests.helpers import STREAMS, assert_error, start_training, train_script
from utils import load_checkpoint, save_checkpoint, write_record


@pytest.mark.parametrize(
    ("stream", "signum"), [("spatial", signal.SIGTERM), ("spatial", signal.SIGINT), ("skeleton", signal.SIGTERM)]
)
def test_a_signal_to_all_processes_ends_the_run(tiny, tmp_path, stream, signum):
    process = start_training(stream, tiny, tmp_path, "--epochs", 1000, "--workers", 2)
    deadline = time.time() + 120
    while not (tmp_path / "checkpoint.pth.tar").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signum)  # the workers too, as a terminal and a cluster do
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "Traceback" not in err
    assert f"--resume {tmp_path / 'checkpoint.pth.tar'}" in err.strip().splitlines()[-1]
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] >= 1


@pytest.mark.parametrize("stream", ["flow", "skeleton"])
def test_a_killed_run_resumes_bit_for_bit(tiny, tmp_path, stream):
    process = start_training(stream, tiny, tmp_path / "killed", "--epochs", 4)
    checkpoint = tmp_path / "killed/checkpoint.pth.tar"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for record, resume in (("killed", ("--resume", checkpoint)), ("whole", ())):
        finished = train_script(stream, tiny, tmp_path / record, "--epochs", 4, *resume, inline=True)
        assert finished.returncode == 0, finished.stderr
    pickles = [path.name for path in (tmp_path / "whole").glob("*.pickle")]
    assert pickles
    for name in pickles:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    killed, whole = (load_checkpoint(tmp_path / record / "checkpoint.pth.tar") for record in ("killed", "whole"))
    assert killed["epoch"] == whole["epoch"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, killed["state_dict"][name]), name


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_batch_in_which_a_signal_comes_is_the_last(tiny, tmp_path, signum):
    begun, steps = [], []

    def interrupt(module, inputs):
        if isinstance(module, timm.models.ResNet) and module.training:
            begun.append(module)
            if len(begun) == 5:  # of 3 batches an epoch
                os.kill(os.getpid(), signum)

    hooks = register_module_forward_pre_hook(interrupt), register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        finished = train_script("spatial", tiny, tmp_path, "--epochs", 3, inline=True)
    finally:
        for hook in hooks:
            hook.remove()
    assert finished.returncode == 128 + signum, finished.stderr
    assert len(begun) == len(steps) == 5
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] == 1
    assert f"--resume {tmp_path / 'checkpoint.pth.tar'}" in finished.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_loss_that_is_not_finite_is_named(stream, tiny, tmp_path):
    finished = train_script(stream, tiny, tmp_path, "--lr", "1e30", "--epochs", 5, inline=True)
    assert finished.returncode == 2, finished.stdout
    assert "epoch" in finished.stderr and "batch" in finished.stderr and "_c01" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, {"epoch": 1})
    before = path.read_bytes()

    class FullDisk:
        def __init__(self, file):
            self.file, self.left = file, 5000

        def write(self, data):
            self.left -= len(bytes(data))
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = utils.atomic_write

    class Full:
        def __init__(self, path):
            self.context = real(path)

        def __enter__(self):
            return FullDisk(self.context.__enter__())

        def __exit__(self, *error):
            return self.context.__exit__(*error)

    monkeypatch.setattr(utils, "atomic_write", Full)
    with pytest.raises(OSError, match="No space|checkpoint"):
        save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100000)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="the system cannot limit the size of files")
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tiny, tmp_path):
    import resource

    assert train_script("spatial", tiny, tmp_path, "--epochs", 1, inline=True).returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, limits[1]))  # a checkpoint has 4 MiB
    try:
        arguments = ("--resume", tmp_path / "checkpoint.pth.tar", "--epochs", 2)
        finished = train_script("spatial", tiny, tmp_path, *arguments, inline=True)
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


def test_the_user_errors_of_a_foreign_exception_type_do_not_hide(monkeypatch):
    def broken():
        raise builtins.ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run(broken)


def test_check_for_finite_scores(tiny, tmp_path):
    finished = train_script("spatial", tiny, tmp_path, "--epochs", 1, inline=True)
    assert finished.returncode == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pth.tar")
    checkpoint["state_dict"]["fc.bias"][0] = np.nan
    save_checkpoint(tmp_path / "nan.pth.tar", checkpoint)
    finished = train_script("spatial", tiny, tmp_path, "--resume", tmp_path / "nan.pth.tar", "--evaluate", inline=True)
    assert_error(finished, "not finite")


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


def test_a_run_resumes_beside_what_killed_runs_left(tiny, tmp_path):
    old, young = (leave_behind(tmp_path / "checkpoint.pth.tar", days) for days in (2, 0))
    assert train_script("spatial", tiny, tmp_path, "--epochs", 1, inline=True).returncode == 0
    assert not old.exists() and young.exists()
    resume = ("--resume", tmp_path / "checkpoint.pth.tar")
    assert train_script("spatial", tiny, tmp_path, *resume, "--epochs", 2, inline=True).returncode == 0
    assert load_checkpoint(tmp_path / "checkpoint.pth.tar")["epoch"] == 2
