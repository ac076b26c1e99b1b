"""Gloo processes started by torchrun, on tiny data."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from fusion.scores import load_scores
from tests.helpers import run_script, start_training, train_well, training
from utils import load_checkpoint


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_processes_train_and_test_as_one(own_tiny, tmp_path):
    """Of a batch of 3 videos one has 2, the other 1, some of which are broken and skipped by either."""
    broken = [f"{name}_g0{group}_c01" for name in ("Archery", "Diving", "TaiChi") for group in (2, 4)]
    for name in broken:
        for image in (own_tiny / "frames" / f"v_{name}").iterdir():
            image.write_bytes(b"broken")
    arguments = ("--epochs", 2, "--freeze-bn", "all", "--lr", "1e-3", "--batch-size", 3, "--skip-broken")
    train_well("spatial", own_tiny, tmp_path / "one", *arguments)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start_training("spatial", own_tiny, tmp_path / "many", *arguments, launcher=launcher)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert set(json.loads((tmp_path / "many" / "summary.json").read_text())["skipped"]) == set(broken)
    assert sum(f"skipped {name}" in err for name in broken) == 5 and "1 more; all in" in err
    for part in ("train", "test"):
        one, many = (pd.read_csv(tmp_path / name / f"rgb_{part}.csv") for name in ("one", "many"))
        assert list(many["Epoch"]) == [0, 1]
        assert np.abs(one["Loss"] - many["Loss"]).max() < 1e-4
    one, many = (load_scores(tmp_path / name / "spatial_video_preds.pickle") for name in ("one", "many"))
    assert list(one) == list(many) and len(one) == 3
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
    train_well("spatial", tiny, tmp_path / "alone", "--resume", best, "--evaluate")
    two, one = (load_scores(folder / "spatial_video_preds.pickle") for folder in (record, tmp_path / "alone"))
    assert max(np.abs(two[name] - one[name]).max() for name in one) < 1e-4
