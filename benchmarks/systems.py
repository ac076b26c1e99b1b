"""All systems on one data set: streams, temporal heads on their features, fusions; one table of Prec@1.

python -m benchmarks.systems demo/seed0 demo/seed1 demo/seed2 --seeds 0 1 2 --val-groups 35,36
python -m benchmarks.systems jhmdb --splits 01 02 03 --seeds 0 1 2 --only motion_pose skeleton
python -m benchmarks.systems ut --splits 01 02 --val-groups 7,8,9,10 17,18,19,20 --seeds 0 1 2 \\
    --options "--weights none --image-size 64 --batch-size 8 --lr 0.01 --epochs 160"

A data set is a folder with frames or videos, pose_flow, and lists in UCF_list or list. Without validation groups
nothing is chosen: the last epoch is tested, once. Whatever was stopped goes on when the same command is given
again, and what is done is only read. The programs' output is in log.txt of each record.
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
STREAMS = {  # script, and folders of which the first that is there is taken
    "spatial": ("spatial_cnn_15.py", "frames", "videos"),
    "motion_pose": ("motion_pose_cnn_15.py", "pose_flow"),
    "flow": ("motion_cnn_15.py", "flow"),
    "skeleton": ("skeleton_gcn_15.py", "pose_flow"),
}
HEADS = ("mean", "ts-lstm", "inception")  # on the features of all streams that are trained
FUSIONS = {
    "two fused": ("spatial", "motion_pose"),
    "three fused": ("spatial", "motion_pose", "flow"),
    "poses fused": ("motion_pose", "skeleton"),
    "rgb + skeleton fused": ("spatial", "skeleton"),
    "rgb + poses fused": ("spatial", "motion_pose", "skeleton"),
    "streams + heads fused": ("spatial", "motion_pose", "flow", "ts-lstm", "inception"),
}
SYSTEMS = (*STREAMS, *HEADS)


class Case(NamedTuple):
    """One run of everything."""

    data: Path
    split: str
    seed: int
    val_groups: str | None
    record: Path

    @property
    def lists(self) -> list[str]:
        """Options of the split lists."""
        folder = next((path for path in (self.data / "UCF_list", self.data / "list") if path.is_dir()), None)
        indices = sorted(folder.glob("classInd*.txt")) if folder else []
        if not indices:
            raise UserError(f"{self.data}: no UCF_list or list with a class index in it")
        return ["--ucf-list", str(folder), "--split", self.split, "--class-index", indices[0].name]

    @property
    def selection(self) -> list[str]:
        """Options that say what chooses the epoch: the validation groups, or nothing, and the last one is taken."""
        return ["--val-groups", self.val_groups] if self.val_groups else ["--test-every", "1000000"]


def get_args_parser() -> ArgumentParser:
    """Command line of this benchmark."""
    parser = ArgumentParser(description="Train, test and fuse all systems; print Prec@1 on the test lists.")
    add = parser.add_argument
    add("data", nargs="+", type=Path, metavar="DATA", help="folders with frames, pose_flow and lists")
    add("--splits", nargs="+", metavar="NN", default=["04"], help="numbers of the lists")
    text = "validation groups of each split, which choose the epoch (default: none, the last one is taken)"
    add("--val-groups", nargs="+", metavar="N,N", help=text)
    text = "train these streams and heads alone (default: all but skeleton)"
    default = [name for name in SYSTEMS if name != "skeleton"]
    add("--only", nargs="+", choices=SYSTEMS, default=default, metavar="NAME", help=text)
    text = "of one data set all of these, of several data sets one each"
    add("--seeds", nargs="+", type=whole_number(0), metavar="N", default=[0], help=text)
    text = "where a run's records go; {data}, {split} and {seed} are replaced"
    add("--record", metavar="DIR", default="{data}/record/split{split}-seed{seed}", help=text)
    small = "--weights none --image-size 64 --batch-size 8 --lr 0.01 --epochs 12"
    add("--options", default=small, help="of every stream of images (default: %(default)s)")
    return parser


def cases(args: Namespace) -> Iterator[Case]:
    """Every data set, split and seed that the options ask for."""
    val_groups = args.val_groups or [None] * len(args.splits)
    if len(val_groups) != len(args.splits):
        raise UserError(f"--val-groups: {len(val_groups)} given for {len(args.splits)} --splits; give one each")
    several = len(args.data) > 1
    if several and len(args.seeds) != len(args.data):
        raise UserError(f"--seeds: {len(args.seeds)} given for {len(args.data)} data sets; give one each")
    pairs = zip(args.data, args.seeds, strict=True) if several else itertools.product(args.data, args.seeds)
    splits = list(zip(args.splits, val_groups, strict=True))
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
        call(case, script, *arguments, *case.selection, "--seed", case.seed, "--record", record, *resume)


def measure(case: Case, args: Namespace) -> dict[str, float]:
    """Do for a case what is not done; returns Prec@1 in percent by the name of the system."""
    case = case._replace(data=case.data.absolute(), record=case.record.absolute())
    streams, heads = ([name for name in names if name in args.only] for names in (STREAMS, HEADS))
    if "flow" in streams:
        call(case, "extract_flow.py", case.data / "frames", case.data / "flow")
    records = {stream: case.record / stream for stream in streams}
    features = {stream: record / "features.npz" for stream, record in records.items()}
    for stream in streams:
        script, *folders = STREAMS[stream]
        data = next((case.data / folder for folder in folders if (case.data / folder).exists()), case.data / folders[0])
        places = (*case.lists, "--data", data)
        options = () if stream == "skeleton" else shlex.split(args.options)
        train(case, script, records[stream], *places, *options)
        if heads and not features[stream].exists():
            best = ("--resume", records[stream] / BEST, "--evaluate", "--features", features[stream])
            call(case, script, *places, *best, "--record", records[stream])
    for head in heads:
        records[head] = case.record / "temporal" / head
        train(case, "temporal_cnn_15.py", records[head], "--features", *features.values(), "--head", head)
    prec1 = {}
    for name, record in records.items():
        figures = json.loads((record / "summary.json").read_text(encoding="utf-8"))["figures"]
        prec1[name] = figures["test"]["prec1"]
    for name, parts in FUSIONS.items():
        if not set(parts) <= records.keys():
            continue
        out = case.record / "fusions" / name.replace(" ", "_")
        pickles = [next(records[part].glob("*_video_preds.pickle")) for part in parts]
        if not (out / "summary.json").exists():
            call(case, "average_fusion.py", *pickles, *case.lists, "--out", out)
        figures = json.loads((out / "summary.json").read_text(encoding="utf-8"))["splits"][0]["figures"]
        prec1[name] = figures["fused"]["prec1"]
    return prec1


def main(argv: list[str] | None = None) -> None:
    """Measure every case, then print the table, with mean and standard deviation over seeds of a split, and of all."""
    args = get_args_parser().parse_args(argv)
    results = {case: measure(case, args) for case in list(cases(args))}
    columns = list(next(iter(results.values())))
    print("\nPrec@1 on the test lists\n")
    print("| data, split, seed | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    tables = []
    for split in args.splits:
        rows = {case: [prec1[name] for name in columns] for case, prec1 in results.items() if case.split == split}
        for case, row in rows.items():
            cells = " | ".join(f"{value:.2f}" for value in row)
            print(f"| {case.data.name}, {split}, {case.seed} | {cells} |")
        tables.append(np.array(list(rows.values())))
        if len(rows) > 1:
            print_mean(f"{split}, mean", tables[-1])
    if len(tables) > 1:
        print_mean("mean of splits", np.mean(tables, axis=0))


def print_mean(name: str, table: np.ndarray) -> None:
    """Print a row of means ± standard deviations over the rows of a table, which are seeds."""
    spreads = table.std(0, ddof=1) if len(table) > 1 else [None] * table.shape[1]
    pairs = zip(table.mean(0), spreads, strict=True)
    cells = [f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}") for mean, spread in pairs]
    print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(main)
