"""What each part of the training recipe is worth: alone on top of the cosine schedule, and all at once.

DATA holds `demo/seed0 … seed2` and `ut`, made as docs/recipe.md says. Runs that were stopped go on and finished ones
are kept; the tables show what is there, as mean ± standard deviation over seeds. Validation sets choose. All figures go
to RESULTS/figures.csv; what it holds already, from another machine for one, is not trained again.

python -m benchmarks.ablation parts DATA RESULTS      # short runs of each part, Prec@1 on the validation sets
python -m benchmarks.ablation recipes DATA RESULTS    # whole runs of both recipes, Prec@1 on the test lists
"""

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import ArgumentParser, print_table, run, whole_number
from dataloader.split_train_test_video import read_split
from fusion.metrics import fuse, precision
from fusion.scores import load_scores

STREAMS = {"spatial": ("spatial_cnn_15.py", "frames"), "motion_pose": ("motion_pose_cnn_15.py", "pose_flow")}
# Small images and batches from random weights: what a processor trains in minutes.
COMMON = "--weights none --image-size 64 --batch-size 8 --workers 0"
SETS = {  # folder, lists in it, class index, split, validation groups, epochs of a short and of a whole run
    "demo": ("demo/seed{seed}", "UCF_list", "classInd15.txt", "04", "35,36", 5, 12),
    "UT 01": ("ut", "list", "classInd.txt", "01", "7,8,9,10", 20, 160),
    "UT 02": ("ut", "list", "classInd.txt", "02", "17,18,19,20", 20, 160),
}
SEEDS = (0, 1, 2)
KEYS = ["runs", "table", "variant", "data", "seed"]
# The best rates of the original recipe with batches of 8; with its own, for 25 and 64, it learns less.
ORIGINAL = {"spatial": "--recipe original --lr 2e-3", "motion_pose": "--recipe original --lr 3e-3"}
COSINE = "--recipe original --schedule cosine --warmup 1 --lr 5e-3"
PARTS = {
    "weight decay": "--weight-decay 5e-4",
    "dropout": "--dropout 0.2",
    "label smoothing": "--label-smoothing 0.1",
    "averaged weights": "--ema 0.98",
}
OWN_PARTS = {
    "spatial": {
        "resized crops": "--crop resized",
        "scale jitter": "--crop corner",
        "colour jitter": "--color-jitter 0.3",
    },
    "motion_pose": {"3 stacks": "--segments 3", "normalised": "--normalize", "moving bodies": "--from-keypoints"},
}


def short_runs(stream: str) -> dict[str, str]:
    """Name → options of the variants of a stream whose parts are compared."""
    parts = PARTS | OWN_PARTS[stream]
    alone = {name: f"{COSINE} {options}" for name, options in parts.items()}
    # Of the two ways to crop, "all" has the recipe's.
    together = [options for name, options in parts.items() if name != "scale jitter"]
    return {"original": ORIGINAL[stream], "cosine": COSINE} | alone | {"all": " ".join([COSINE, *together])}


def whole_runs(stream: str) -> dict[str, str]:
    """Name → options of the recipes that are compared."""
    return {"original": ORIGINAL[stream], "modern": "--recipe modern --lr 1e-2"}


def train(args: Namespace, kind: str, stream: str, name: str, options: str, data: str, seed: int) -> None:
    """Train one variant in a process of its own, from its last checkpoint if it has one."""
    record = record_of(args.results, kind, stream, name, data, seed)
    if (record / "summary.json").exists():
        return
    folder, lists, index, split, groups, short, whole = SETS[data]
    script, images = STREAMS[stream]
    root, epochs = args.data / folder.format(seed=seed), short if kind == "parts" else whole
    command = [sys.executable, script, "--data", root / images, "--ucf-list", root / lists, "--class-index", index]
    command += ["--split", split, "--val-groups", groups, "--epochs", epochs, "--test-every", max(epochs // 10, 1)]
    command += ["--test-clips", 5, "--seed", seed, "--record", record, *shlex.split(f"{COMMON} {options}")]
    if (record / "checkpoint.pth.tar").exists():
        command += ["--resume", record / "checkpoint.pth.tar"]
    record.mkdir(parents=True, exist_ok=True)
    with (record / "log.txt").open("a") as log:
        code = subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=one_thread()).returncode
    print(
        f"{kind} {stream} {name}, {data}, seed {seed}: " + ("done" if code == 0 else f"status {code}, see {log.name}")
    )


def one_thread() -> dict:
    """The environment of a run that shares the processor with others: one thread each."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def record_of(results: Path, kind: str, stream: str, name: str, data: str, seed: int) -> Path:
    """The folder of one run."""
    return results / kind / stream / name.replace(" ", "_") / f"{data.replace(' ', '')}_seed{seed}"


def figure(args: Namespace, kind: str, names: dict[str, str], data: str, seed: int) -> float | None:
    """Prec@1 of the named variants (stream → name), fused if there are two; None while one is missing."""
    folder, lists, index, split, groups, *_ = SETS[data]
    what = "_val" if kind == "parts" else ""
    paths = [
        record_of(args.results, kind, stream, name, data, seed) / f"{stream}_video{what}_preds.pickle"
        for stream, name in names.items()
    ]
    if not all((path.parent / "summary.json").exists() for path in paths):
        return None
    listed = read_split(args.data / folder.format(seed=seed) / lists, split, index)
    labels = {video.name: video.label for video in (listed.train if what else listed.test)}
    tables = [load_scores(path) for path in paths]
    scores = fuse([np.stack([table[name] for name in tables[0]]) for table in tables])
    return precision(scores, np.array([labels[name] for name in tables[0]]))[0]


def known_figures(results: Path) -> pd.DataFrame:
    """What was measured before: a row a figure, the columns KEYS and prec1."""
    path = results / "figures.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEYS, "prec1"])


def collect(args: Namespace, kind: str, variants: dict[str, dict[str, str]]) -> dict[str, pd.DataFrame]:
    """Add the figures of the runs that are there to figures.csv; returns those of each stream and of their fusion."""
    names = list(dict.fromkeys(name for runs in variants.values() for name in runs))
    tables = {stream: {name: {stream: name} for name in runs} for stream, runs in variants.items()}
    # With a part that only one stream has, the other stream is that of the cosine schedule alone.
    tables["fused"] = {name: {s: name if name in runs else "cosine" for s, runs in variants.items()} for name in names}
    found = [
        (kind, table, name, data, seed, figure(args, kind, chosen, data, seed))
        for table, rows in tables.items()
        for (name, chosen), data, seed in product(rows.items(), SETS, SEEDS)
    ]
    new = pd.DataFrame(found, columns=[*KEYS, "prec1"]).dropna()
    known = known_figures(args.results)
    figures = (pd.concat([known, new]) if len(known) else new).drop_duplicates(KEYS, keep="last")
    figures.to_csv(args.results / "figures.csv", index=False, float_format="%.2f")
    return {table: figures[(figures.runs == kind) & (figures.table == table)] for table in tables}


def print_results(tables: dict[str, pd.DataFrame]) -> None:
    """One table a stream and one of their fusion: a row a variant, a column a data set; * marks missing seeds."""
    for title, figures in tables.items():
        rows = []
        for name, of_variant in figures.groupby("variant", sort=False):
            values = {data: of_variant[of_variant.data == data].prec1.to_numpy() for data in SETS}
            cells = [
                f"{v.mean():.1f} ± {v.std(ddof=1) if len(v) > 1 else 0:.1f}" + "*" * (len(v) < len(SEEDS))
                if len(v)
                else ""
                for v in values.values()
            ]
            complete = all(map(len, values.values()))
            rows.append([name, *cells, f"{np.mean([v.mean() for v in values.values()]):.1f}" if complete else ""])
        print_table([title, *SETS, "mean"], rows)
        print()


def seconds(args: Namespace, kind: str, variants: dict[str, dict[str, str]]) -> None:
    """Print how long the runs of each variant took."""
    for stream, runs in variants.items():
        for name, data in product(runs, SETS):
            found = [record_of(args.results, kind, stream, name, data, seed) / "summary.json" for seed in SEEDS]
            times = [json.loads(path.read_text())["seconds"] for path in found if path.exists()]
            if times:
                print(f"{stream} {name}, {data}: {np.mean(times):.0f} s")


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("parts", "recipes"), help="parts alone in short runs, or whole recipes")
    parser.add_argument("data", type=Path, help="folder of demo/ and ut/")
    parser.add_argument("results", type=Path, help="where the runs are kept")
    parser.add_argument(
        "--jobs", type=whole_number(0), default=2, help="runs at once, a thread each; 0: show what is there"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="train these variants alone, such as modern")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="train on these data alone")
    return parser


def main() -> None:
    """Train what is missing, seed by seed, and print the tables."""
    args = get_args_parser().parse_args()
    variants = {stream: (short_runs if args.what == "parts" else whole_runs)(stream) for stream in STREAMS}
    if args.jobs:
        known = set(known_figures(args.results)[KEYS].itertuples(index=False, name=None))
        runs = [
            (args, args.what, stream, name, options, data, seed)
            for seed, data, stream in product(SEEDS, args.sets, STREAMS)
            for name, options in variants[stream].items()
            if name in (args.only or variants[stream]) and (args.what, stream, name, data, seed) not in known
        ]
        pool = ThreadPoolExecutor(args.jobs)
        try:
            list(pool.map(lambda run_of_one: train(*run_of_one), runs))
        finally:
            pool.shutdown(cancel_futures=True)
    print_results(collect(args, args.what, variants))
    seconds(args, args.what, variants)


if __name__ == "__main__":
    run(main)
