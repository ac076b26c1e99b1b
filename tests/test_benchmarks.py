"""The benchmarks run, on tiny sizes, and print the tables they promise."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torchvision.models import ResNet

from benchmarks import ablation, data, pipelines, systems, throughput
from tests.helpers import ROOT, assert_error, call_main
from tests.pose_fixtures import save_network
from training.options import parse_options
from utils import computes_in_half


@pytest.fixture(autouse=True)
def same_threads():
    """Benchmarks choose their number of threads; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tables(finished) -> dict[str, list[list[str]]]:
    """Rows of cells by the line above each table."""
    assert finished.returncode == 0, finished.stderr
    found = {}
    for title, table in re.findall(r"^(\w.*)\n\n((?:\|.*\n)+)", finished.stdout, re.M):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, table
        found[title] = rows
    return found


def test_throughput():
    finished = call_main("benchmarks.throughput", "--quick", "--no-memory", "--device", "cpu")
    samples, rates = tables(finished).values()
    assert [row[0].split(" sample")[0] for row in samples[2:]] == [
        f"{stream} {what}" for stream in ("spatial", "motion") for what in ("training", "test")
    ]
    assert [row[0] for row in rates[2:]] == [
        f"{stream} {what}" for stream in ("spatial", "motion") for what in ("training", "testing")
    ]
    # One round each: how many times faster this pipeline is follows from the two columns before.
    for _, slow, fast, ratio, *_ in [*samples[2:], *([row[0], row[2], row[1], *row[3:]] for row in rates[2:])]:
        assert float(ratio.split(" ")[0]) == pytest.approx(float(slow) / float(fast), rel=0.02, abs=0.01)
    # Both pipelines give the same scores, so that they do the same work.
    differences = re.findall(r"(\S+) \(largest score", finished.stdout)
    limit = 0.1 if computes_in_half(torch.device("cpu")) else 1e-3
    assert len(differences) == 2 and all(float(difference) < limit for difference in differences)


def test_scaling(tmp_path):
    found = tables(call_main("benchmarks.scaling", "--quick", "--device", "cpu", "--out", tmp_path / "scaling.png"))
    assert len(found) == 6 and all(len(rows) == 4 for rows in found.values())
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_pose(tmp_path):
    small = ("--repeat", 1, "--network-repeat", 1, "--side", 64, "--expected", tmp_path / "none")
    finished = call_main("benchmarks.pose", *small)
    assert finished.returncode == 0, finished.stderr
    for what in (
        "group_people, empty maps",
        "synthetic maps 2, 2 found",
        "draw_people, 1",
        "save_pose_image",
        "OpenPose",
    ):
        assert re.search(rf"^\| [^|]*{what}[^|]* \| [0-9.]+ \| [0-9.]+ \|$", finished.stdout, re.M), finished.stdout
    pytest.importorskip("onnx")
    weights = ("--pose-weights", save_network(tmp_path / "net.onnx", dynamic=False))
    finished = call_main("benchmarks.pose", *small, "--models", "onnx", *weights)
    assert re.search(r"^\| onnx, 341x256, \d found \| [0-9.]+ \| [0-9.]+ \|$", finished.stdout, re.M), finished.stdout


def test_user_mistakes():
    assert_error(call_main("benchmarks.pose", "--repeat", "0"), "--repeat")
    assert_error(call_main("benchmarks.throughput", "--frames", "5"), "--frames 5")
    assert_error(call_main("benchmarks.throughput", "--repeat", "0"), "--repeat")


def test_synthetic_images_cost_what_real_ones_cost(tmp_path):
    videos = data.write_videos(tmp_path, 3, 2)
    assert 20_000 < data.mean_bytes(tmp_path / "frames") < 36_000
    assert 7_000 < data.mean_bytes(tmp_path / "pose_flow") < 15_000
    assert [video.label for video in videos] == [0, 1, 2]


def test_measure_takes_turns():
    calls = []
    seconds = pipelines.measure(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, torch.device("cpu"), loops=2
    )
    assert "".join(calls) == "ab" + "aabb" * 2
    assert [len(values) for values in seconds.values()] == [2, 2]


@pytest.mark.parametrize(("kind", "what"), [("plain", "testing"), ("this", "training")])
def test_memory_is_read_after_a_run(tmp_path, kind, what, monkeypatch):
    setup = pipelines.Setup(data.write_videos(tmp_path, 1, 10), torch.device("cpu"), 32, batch_motion=2)
    runs = []
    monkeypatch.setattr(throughput, "peak_memory", lambda: list(runs))
    hook = register_module_forward_hook(
        lambda module, *_: runs.append(module.training) if isinstance(module, ResNet) else None
    )
    try:
        assert set(throughput.memory_of(tmp_path, kind, "motion", what, setup)) == {what == "training"}
    finally:
        hook.remove()


def test_peak_memory_counts_what_was_given_back():
    code = (
        "import numpy; from benchmarks.pipelines import peak_memory; before = peak_memory()\n"
        "numpy.ones(2**25); print(peak_memory() - before)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 200 < float(finished.stdout) < 300  # 256 MB


def test_systems_are_measured_in_every_case(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "measure", lambda case, args: dict.fromkeys(systems.COLUMNS, 10.0 * case.seed))
    several = (tmp_path / "a", tmp_path / "b", "--seeds", 1, 3, "--val-groups", "35,36")
    rows = tables(call_main("benchmarks.systems", *several)).popitem()[1]
    assert [row[0] for row in rows[2:]] == ["a, 04, 1", "b, 04, 3", "04, mean"]
    assert {row[1] for row in rows[2:]} == {"10.00", "30.00", "20.00 ± 14.14"}
    splits = (tmp_path / "a", "--seeds", 0, 1, "--splits", "01", "02", "--val-groups", "9", "19")
    rows = tables(call_main("benchmarks.systems", *splits)).popitem()[1]
    assert len(rows) == 8 and rows[3][0] == "a, 01, 1"
    monkeypatch.undo()
    one = (tmp_path / "a", "--val-groups", "9")
    assert_error(call_main("benchmarks.systems", *one, "--splits", "01", "02"), "--val-groups")
    assert_error(call_main("benchmarks.systems", tmp_path, *one), "--seeds")


def test_systems_do_what_is_not_done(tmp_path, monkeypatch):
    (tmp_path / "list").mkdir()
    (tmp_path / "list/classInd.txt").write_text("1 A\n")
    calls = []

    def pretend(case, script, *arguments):
        calls.append([script, *map(str, arguments)])
        places = {name: Path(value) for name, value in pairwise(calls[-1]) if name in ("--record", "--out")}
        figures = {"figures": {"test": {"prec1": 50.0}, "fused": {"prec1": 60.0}}}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
            (place / "summary.json").write_text(json.dumps(figures | {"splits": [figures]}))
            (place / f"{place.name}_video_preds.pickle").touch()
        if "--evaluate" in arguments:
            Path(calls[-1][calls[-1].index("--features") + 1]).touch()

    monkeypatch.setattr(systems, "call", pretend)
    finished = call_main("benchmarks.systems", tmp_path, "--val-groups", "9")
    assert finished.returncode == 0, finished.stderr
    scripts = [call[0] for call in calls]
    assert [scripts.count(f"{name}.py") for name in ("extract_flow", "motion_cnn_15", "temporal_cnn_15")] == [1, 2, 3]
    calls.clear()
    record = tmp_path / "record/split04-seed0"
    (record / "flow/summary.json").unlink()
    (record / "flow/checkpoint.pth.tar").touch()
    assert call_main("benchmarks.systems", tmp_path, "--val-groups", "9").stdout.count("60.00") == 3
    assert [call[0] for call in calls] == ["extract_flow.py", "motion_cnn_15.py"] and "--resume" in calls[1]


def test_variants_of_the_ablation_are_options_of_the_scripts():
    for stream, (script, _) in ablation.STREAMS.items():
        parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
        plain = parse_options(parser, stream, shlex.split(ablation.short_runs(stream)["cosine"]))
        for name, options in ablation.short_runs(stream).items():
            args = parse_options(parser, stream, shlex.split(options))
            assert name == "cosine" or vars(args) != vars(plain), name


def test_figures_that_are_known_are_not_measured_again(tmp_path, monkeypatch, capsys):
    rows = [
        ("recipes", table, name, data, seed, 50 + seed)
        for table in (*ablation.STREAMS, "fused")
        for name in ("original", "modern")
        for data in ablation.SETS
        for seed in ablation.SEEDS
    ]
    pd.DataFrame(rows, columns=[*ablation.KEYS, "prec1"]).iloc[:-1].to_csv(tmp_path / "figures.csv", index=False)
    monkeypatch.setattr(ablation.subprocess, "run", lambda *args, **options: pytest.fail("trained again"))
    monkeypatch.setattr("sys.argv", ["ablation", "recipes", str(tmp_path), str(tmp_path)])
    ablation.main()
    out = capsys.readouterr().out
    assert out.count("51.0 ± 1.0 ") == 17 and out.count("50.5 ± 0.7*") == 1


def test_onnx():
    pytest.importorskip("onnx")
    found = tables(call_main("benchmarks.onnx", "--repeat", 1, "--size", 32, "--batch", 2, "--threads", 1))
    (rows,) = found.values()
    assert [row[:3] for row in rows[2:]] == [["spatial", "3", "1"], ["flow", "20", "1"], ["motion_pose", "30", "1"]]
    for *_, slow, fast, ratio, difference in rows[2:]:
        assert float(ratio.split(" ")[0]) == pytest.approx(float(fast) / float(slow), rel=0.02, abs=0.01)
        assert float(difference) < 1e-4
