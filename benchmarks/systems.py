"""All systems on one data set: three streams, temporal heads on their features, fusions; one table of Prec@1.

python -m benchmarks.systems demo/seed0 demo/seed1 demo/seed2 --seeds 0 1 2 --val-groups 35,36
python -m benchmarks.systems ut --splits 01 02 --val-groups 7,8,9,10 17,18,19,20 --seeds 0 1 2 \\
    --options "--weights none --image-size 64 --batch-size 8 --lr 0.01 --epochs 160"

A data set is a folder with frames, pose_flow, and lists in UCF_list or list. Whatever was stopped goes on when the same
command is given again, and what is done is only read. The programs' output is in log.txt of each record.
"""

import itertools
import json
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import ArgumentParser, UserError, run, whole_number
from training.resume import BEST, CHECKPOINT

ROOT = Path(__file__).resolve().parent.parent
STREAMS = {  # script and folder
    "spatial": ("spatial_cnn_15.py", "frames"),
    "motion_pose": ("motion_pose_cnn_15.py", "pose_flow"),
    "flow": ("motion_cnn_15.py", "flow"),
}
HEADS = ("mean", "ts-lstm", "inception")
FUSIONS = {
    "two fused": ("spatial", "motion_pose"),
    "three fused": tuple(STREAMS),
    "streams + heads fused": (*STREAMS, "ts-lstm", "inception"),
}
COLUMNS = (*STREAMS, "two fused", "three fused", *HEADS, "streams + heads fused")


class Case(NamedTuple):
    """One run of everything."""

    data: Path
    split: str
    seed: int
    val_groups: str
    record: Path

    @property
    def lists(self) -> list[str]:
        """Options of the split lists."""
        folder = next((path for path in (self.data / "UCF_list", self.data / "list") if path.is_dir()), None)
        indices = sorted(folder.glob("classInd*.txt")) if folder else []
        if not indices:
            raise UserError(f"{self.data}: no UCF_list or list with a class index in it")
        return ["--ucf-list", str(folder), "--split", self.split, "--class-index", indices[0].name]


def get_args_parser() -> ArgumentParser:
    """Command line of this benchmark."""
    parser = ArgumentParser(description="Train, test and fuse all systems; print Prec@1 on the test lists.")
    add = parser.add_argument
    add("data", nargs="+", type=Path, metavar="DATA", help="folders with frames, pose_flow and lists")
    add("--splits", nargs="+", metavar="NN", default=["04"], help="numbers of the lists")
    text = "validation groups of each split; they choose epochs, and the test list is read once"
    add("--val-groups", nargs="+", metavar="N,N", required=True, help=text)
    text = "of one data set all of these, of several data sets one each"
    add("--seeds", nargs="+", type=whole_number(0), metavar="N", default=[0], help=text)
    text = "where a run's records go; {data}, {split} and {seed} are replaced"
    add("--record", metavar="DIR", default="{data}/record/split{split}-seed{seed}", help=text)
    small = "--weights none --image-size 64 --batch-size 8 --lr 0.01 --epochs 12"
    add("--options", default=small, help="of every stream (default: %(default)s)")
    return parser


def cases(args: Namespace) -> Iterator[Case]:
    """Every data set, split and seed that the options ask for."""
    if len(args.val_groups) != len(args.splits):
        raise UserError(f"--val-groups: {len(args.val_groups)} given for {len(args.splits)} --splits; give one each")
    several = len(args.data) > 1
    if several and len(args.seeds) != len(args.data):
        raise UserError(f"--seeds: {len(args.seeds)} given for {len(args.data)} data sets; give one each")
    pairs = zip(args.data, args.seeds, strict=True) if several else itertools.product(args.data, args.seeds)
    splits = list(zip(args.splits, args.val_groups, strict=True))
    for (data, seed), (split, groups) in itertools.product(pairs, splits):
        record = args.record.replace("{data}", str(data)).replace("{split}", split).replace("{seed}", str(seed))
        yield Case(data, split, seed, groups, Path(record))


def call(case: Case, script: str, *arguments: object) -> None:
    """Run a script of the repository; raises `UserError` if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    print(f"{script} → {case.record}", flush=True)
    case.record.mkdir(parents=True, exist_ok=True)
    with (case.record / "log.txt").open("a") as log:
        log.write(f"\n$ {shlex.join(command[1:])}\n")
        log.flush()
        if subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode:
            raise UserError(f"{script} failed; see {log.name}")


def train(case: Case, script: str, record: Path, *arguments: object) -> None:
    """Train, or train on, unless that is done."""
    if not (record / "summary.json").exists():
        resume = ("--resume", record / CHECKPOINT) if (record / CHECKPOINT).exists() else ()
        common = ("--val-groups", case.val_groups, "--seed", case.seed, "--record", record, *resume)
        call(case, script, *arguments, *common)


def measure(case: Case, args: Namespace) -> dict[str, float]:
    """Do for a case what is not done; returns Prec@1 in percent by the name of the system."""
    case = case._replace(data=case.data.absolute(), record=case.record.absolute())
    call(case, "extract_flow.py", case.data / "frames", case.data / "flow")
    records = {stream: case.record / stream for stream in STREAMS}
    features = {stream: record / "features.npz" for stream, record in records.items()}
    for stream, (script, folder) in STREAMS.items():
        places = (*case.lists, "--data", case.data / folder)
        train(case, script, records[stream], *places, *shlex.split(args.options))
        if not features[stream].exists():
            best = ("--resume", records[stream] / BEST, "--evaluate", "--features", features[stream])
            call(case, script, *places, *best, "--record", records[stream])
    for head in HEADS:
        records[head] = case.record / "temporal" / head
        train(case, "temporal_cnn_15.py", records[head], "--features", *features.values(), "--head", head)
    prec1 = {}
    for name, parts in FUSIONS.items():
        out = case.record / "fusions" / name.replace(" ", "_")
        pickles = [next(records[part].glob("*_video_preds.pickle")) for part in parts]
        if not (out / "summary.json").exists():
            call(case, "average_fusion.py", *pickles, *case.lists, "--out", out)
        figures = json.loads((out / "summary.json").read_text(encoding="utf-8"))["splits"][0]["figures"]
        prec1[name] = figures["fused"]["prec1"]
    for name, record in records.items():
        figures = json.loads((record / "summary.json").read_text(encoding="utf-8"))["figures"]
        prec1[name] = figures["test"]["prec1"]
    return prec1


def main(argv: list[str] | None = None) -> None:
    """Measure every case, then print the table, with mean and standard deviation of several cases of a split."""
    args = get_args_parser().parse_args(argv)
    results = {case: measure(case, args) for case in list(cases(args))}
    print("\nPrec@1 on the test lists\n")
    print("| data, split, seed | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * len(COLUMNS))
    for split in args.splits:
        rows = {case: [prec1[name] for name in COLUMNS] for case, prec1 in results.items() if case.split == split}
        for case, row in rows.items():
            cells = " | ".join(f"{value:.2f}" for value in row)
            print(f"| {case.data.name}, {split}, {case.seed} | {cells} |")
        if len(rows) > 1:
            table = np.array(list(rows.values()))
            pairs = zip(table.mean(0), table.std(0, ddof=1), strict=True)
            print(f"| {split}, mean | " + " | ".join(f"{mean:.2f} ± {std:.2f}" for mean, std in pairs) + " |")


if __name__ == "__main__":
    run(main)
