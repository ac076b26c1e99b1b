"""The benchmarks run, on tiny sizes, and print the tables they promise."""

import importlib
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import ablation, systems
from tests.helpers import ROOT, call_main
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


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path):
    importlib.import_module(f"benchmarks.{path.stem}")
