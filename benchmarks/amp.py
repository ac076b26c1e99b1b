"""What mixed precision changes: Prec@1 and scores of trained streams, tested in float32 and with --amp.

python -m benchmarks.amp record/spatial record/motion_pose
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, UserError, print_table, run
from fusion.scores import load_scores
from training.resume import BEST

SCRIPTS = {
    "spatial": "spatial_cnn_15.py",
    "motion_pose": "motion_pose_cnn_15.py",
    "flow": "motion_cnn_15.py",
    "skeleton": "skeleton_gcn_15.py",
}


def test(record: Path, flag: str, out: Path) -> tuple[float, float, dict[str, np.ndarray]]:
    """Prec@1, seconds, and scores of the best model of a record, tested with `--amp` or `--no-amp`."""
    summary = json.loads((record / "summary.json").read_text())
    options = summary["arguments"]
    command = [sys.executable, SCRIPTS[summary["stream"]], "--data", options["data"]]
    command += ["--ucf-list", options["ucf_list"], "--resume", record / BEST, "--evaluate", "--record", out, flag]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if finished.returncode:
        raise UserError(f"{record}: {finished.stderr.strip().splitlines()[-1]}")
    figures = json.loads((out / "evaluation.json").read_text())
    return figures["figures"]["test"]["prec1"], figures["seconds"], load_scores(next(out.glob("*_video_preds.pickle")))


def compare(record: Path) -> list[str]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        results = [test(record, flag, Path(folder, flag.strip("-"))) for flag in ("--no-amp", "--amp")]
    (plain, plain_seconds, first), (mixed, mixed_seconds, second) = results
    difference = max(float(np.abs(first[name] - second[name]).max()) for name in first)
    changed = sum(first[name].argmax() != second[name].argmax() for name in first)
    figures = f"{plain:.2f}", f"{mixed:.2f}", f"{changed} of {len(first)}", f"{difference:.3f}"
    return [str(record), *figures, f"{plain_seconds:.0f}", f"{mixed_seconds:.0f}"]


def main() -> None:
    """Test each record twice and print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="folders that training wrote")
    rows = [compare(record) for record in parser.parse_args().records]
    titles = ("record", "Prec@1 float32", "--amp", "best class changed", "largest difference", "s float32", "s --amp")
    print_table(titles, rows)


if __name__ == "__main__":
    run(main)
