"""Gloo processes started by torchrun, on tiny data."""

import json
import os
import signal
import socket
import subprocess
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import UserError
from fusion.scores import load_scores
from tests.helpers import STREAMS, run_script, start_training, train_script, training
from training import run
from training.distributed import Processes
from training.streams import SPATIAL
from utils import StopRequest, load_checkpoint


def torchrun(processes: int, data: Path, record: Path, *arguments, stream: str = "spatial") -> subprocess.Popen:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
    return start_training(stream, data, record, *arguments, launcher=launcher)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def finish(process: subprocess.Popen) -> None:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err


def ranks_of(launcher: int) -> list[int]:
    """Processes that the launcher started (Linux)."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == launcher:
            children.append(int(path.parent.name))
    return sorted(children)


@pytest.mark.parametrize("stream", ["spatial", "skeleton"])
def test_processes_train_and_test_as_one(stream, tiny, tmp_path):
    processes, epochs = 2, 2  # of 3 videos one has 2, the other 1
    arguments = ("--epochs", epochs, "--freeze-bn", "all", "--lr", "1e-3", "--dropout", 0)
    arguments += ("--batch-size", 3, *(() if stream == "skeleton" else ("--arch", "resnet18")))  # shares of 2 and 1
    prefix = STREAMS[stream][2]
    whole = train_script(stream, tiny, tmp_path / "one", *arguments, inline=True)
    assert whole.returncode == 0, whole.stderr
    finish(torchrun(processes, tiny, tmp_path / "many", *arguments, stream=stream))
    one, many = (pd.read_csv(tmp_path / name / f"{prefix}_train.csv") for name in ("one", "many"))
    assert list(many["Epoch"]) == list(range(epochs))
    assert np.abs(one["Loss"] - many["Loss"]).max() < 1e-4
    one, many = (pd.read_csv(tmp_path / name / f"{prefix}_test.csv") for name in ("one", "many"))
    assert np.abs(one["Loss"] - many["Loss"]).max() < 1e-4
    one, many = (load_scores(tmp_path / name / f"{stream}_video_preds.pickle") for name in ("one", "many"))
    assert list(one) == list(many) and len(one) == 6
    assert max(np.abs(one[name] - many[name]).max() for name in one) < 1e-3


def test_machines_without_a_common_disk_score_one_model(tiny, tmp_path):
    """The best epoch, which the main process alone has on its disk, is not the last: it scores all videos."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--epochs", 3, "--lr", 0.1, "--batch-size", 12, "--test-clips", 2)
    script, *options = training("spatial", tiny, Path("run"), *options)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ThreadPoolExecutor(2) as pool:
        machines = [
            pool.submit(run_script, script, *options, cwd=make_folder(tmp_path / rank), RANK=rank, **group)
            for rank in "01"
        ]
    assert [machine.result().returncode for machine in machines] == [0, 0], machines[0].result().stderr
    record = tmp_path / "0" / "run"
    best = record / "model_best.pth.tar"
    assert load_checkpoint(best)["epoch"] < 3 and not (tmp_path / "1" / "run" / "model_best.pth.tar").exists()
    alone = train_script("spatial", tiny, tmp_path / "alone", "--resume", best, "--evaluate", inline=True)
    assert alone.returncode == 0, alone.stderr
    two, one = (load_scores(folder / "spatial_video_preds.pickle") for folder in (record, tmp_path / "alone"))
    assert max(np.abs(two[name] - one[name]).max() for name in one) < 1e-4


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_all_and_one_process_resumes(tiny, tmp_path):
    arguments = ("--freeze-bn", "all", "--batch-size", "3")
    process = torchrun(2, tiny, tmp_path, *arguments, "--epochs", 1000)
    checkpoint = tmp_path / "checkpoint.pth.tar"
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert checkpoint.exists(), process.communicate()
    ranks = ranks_of(process.pid)
    assert len(ranks) >= 2
    os.kill(ranks[-1], signal.SIGKILL)
    killed = time.time()
    process.communicate(timeout=60)
    assert time.time() - killed < 30 and process.returncode != 0
    done = load_checkpoint(checkpoint)["epoch"]
    arguments += ("--resume", checkpoint, "--epochs", done + 1)
    resumed = train_script("spatial", tiny, tmp_path, *arguments, inline=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"epochs {done + 1}" in resumed.stdout.splitlines()[0]
    assert resumed.stdout.splitlines()[1].startswith(f"epoch {done}:")
    assert list(pd.read_csv(tmp_path / "rgb_train.csv")["Epoch"]) == list(range(done + 1))


def test_videos_that_any_process_skips_are_reported(own_tiny, tmp_path):
    videos = [f"{name}_g0{group}_c01" for name in ("Archery", "Diving", "TaiChi") for group in (2, 4)]
    for name in videos:  # with two processes the second one meets some of them
        for image in (own_tiny / "frames" / f"v_{name}").iterdir():
            image.write_bytes(b"broken")
    process = torchrun(2, own_tiny, tmp_path, "--epochs", 1, "--skip-broken")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert set(json.loads((tmp_path / "summary.json").read_text())["skipped"]) == set(videos)
    assert sum(f"skipped {name}" in err for name in videos) == 5 and "1 more; all in" in err


def test_processes_that_share_a_gpu_are_refused(monkeypatch):
    """NCCL would, in words that do not tell."""
    args = Namespace(device="cuda", amp=None, batch_size=4, evaluate=False, accumulate=1, freeze_bn="none")
    args.skip_broken, args.label_smoothing, args.clip_gradients = False, 0.0, 0.0
    monkeypatch.setattr(run, "pick_device", lambda name, rank: torch.device("cuda", rank))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-7"))
    monkeypatch.setattr(run, "gather", lambda processes, item: [item, ("other machine", "GPU-7")])
    assert run.make_context(args, SPATIAL, Processes(0, 2, 0), StopRequest()).device.type == "cuda"
    monkeypatch.setattr(run, "gather", lambda processes, item: [item, item])
    with pytest.raises(UserError, match="2 processes share 1 CUDA devices"):
        run.make_context(args, SPATIAL, Processes(0, 2, 0), StopRequest())
