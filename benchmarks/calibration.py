"""Calibration error and the answer "none of these": chosen on validation scores, reported on test scores.

    python -m benchmarks.calibration 'results/recipes/{stream}/modern/demo_seed{seed}' --seeds 0 1 2 \
        --ucf-list 'demo/seed{seed}/UCF_list'
    python -m benchmarks.calibration ../shared/reference_scores --halves

A folder holds the score pickles of a run with a validation set. "unknown" are the test videos with the logit of their
own class left out, so that none of the other classes is theirs: a stand-in for videos of classes that were not trained.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, run
from dataloader.names import Video, group_of
from dataloader.split_train_test_video import read_split
from fusion.metrics import (
    Calibration,
    calibrate,
    choose_threshold,
    combine,
    expected_calibration_error,
    fit_temperature,
    fuse,
    softmax,
)
from fusion.scores import load_table, stack_scores

COLUMNS = ("temperature", "threshold, %", "ECE, %", "none, %", "Prec@1 of the answered", "none of the unknown, %")
Scored = tuple[list[np.ndarray], np.ndarray]  # logits (N, C) of each stream, labels (N,)


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", metavar="DIR", help="folders of the runs, with {stream} and {seed} in place of those")
    add("--streams", nargs="+", default=["spatial", "motion_pose"])
    add("--seeds", nargs="+", default=["0"], help="what {seed} stands for; mean ± standard deviation over them")
    add("--ucf-list", default="UCF_list", metavar="DIR", help="lists, with {seed} where they have one")
    add("--split", default="04")
    add("--class-index", default="classInd15.txt")
    text = "without validation scores: choose on the test videos of even groups, report on odd ones, and vice versa"
    add("--halves", action="store_true", help=text)
    return parser


def load_scored(args: Namespace, seed: str, what: str) -> tuple[list[Video], list[np.ndarray]]:
    """The "val" or "test" videos of a run, and their logits (N, C) of each stream."""
    split = read_split(args.ucf_list.format(seed=seed), args.split, args.class_index)
    listed, suffix = (split.test, "") if what == "test" else (split.train, "_val")
    folders = [Path(args.folder.format(stream=stream, seed=seed)) for stream in args.streams]
    names = [f"{stream}_video{suffix}_preds.pickle" for stream in args.streams]
    paths = [str(folder / name) for folder, name in zip(folders, names, strict=True)]
    tables = [load_table(path, listed, "the list", len(split.classes)) for path in paths]
    there = [video for video in listed if video.name in tables[0]]
    return stack_scores(tables, there, paths, what, skip_missing=False)


def select(videos: Sequence[Video], scores: Sequence[np.ndarray], keep: np.ndarray) -> Scored:
    """Scores and labels of those videos to `keep`."""
    return [logits[keep] for logits in scores], np.array([video.label for video in videos])[keep]


def pairs(args: Namespace) -> Iterator[tuple[Scored, Scored]]:
    """What to choose on and what to report on: of each seed, or of both halves of its test list."""
    for seed in args.seeds:
        test = load_scored(args, seed, "test")
        if args.halves:
            even = np.array([group_of(video) % 2 == 0 for video in test[0]])
            yield select(*test, even), select(*test, ~even)
            yield select(*test, ~even), select(*test, even)
        else:
            val = load_scored(args, seed, "val")
            yield select(*val, [True] * len(val[0])), select(*test, [True] * len(test[0]))


def measure(logits: np.ndarray, labels: np.ndarray, used: Calibration) -> list[float]:
    """In percent: ECE, share of videos with "none of these", Prec@1 of the answered ones, "none" of the unknown."""
    unknown = np.array(logits, np.float64)
    unknown[np.arange(len(labels)), labels] = -np.inf
    probabilities = softmax(logits / used.temperature)
    answered = probabilities.max(1) >= (used.threshold or 0)
    right = (probabilities.argmax(1) == labels)[answered].mean() if answered.any() else np.nan
    refused = softmax(unknown / used.temperature).max(1) < (used.threshold or 0)
    error = expected_calibration_error(probabilities, labels)
    return [100 * value for value in (error, 1 - answered.mean(), right, refused.mean())]


def rows_of(streams: Sequence[str], val: Scored, test: Scored) -> dict[str, list[float]]:
    """`COLUMNS` by what was done with the scores."""
    own = [Calibration(kept["temperature"], kept["threshold"]) for kept in (calibrate(one, val[1]) for one in val[0])]
    fused, val_fused, rule = fuse(test[0]), fuse(val[0]), combine(own)

    def with_threshold(temperature: float) -> Calibration:
        return Calibration(temperature, choose_threshold(softmax(val_fused / temperature), val[1]))

    chosen = {}
    for stream, scores, calibration in zip(streams, test[0], own, strict=True):
        chosen |= {stream: (scores, Calibration()), f"{stream}, calibrated": (scores, calibration)}
    mean = float(np.mean([calibration.temperature for calibration in own]))
    chosen |= {
        "fused": (fused, Calibration()),
        "fused, mean of the temperatures": (fused, with_threshold(mean)),
        "fused, temperature fitted": (fused, with_threshold(fit_temperature(val_fused, val[1]))),
        "fused, temperature by rule, threshold fitted": (fused, with_threshold(rule.temperature)),
        "**fused, both by rule** (predict.py)": (fused, rule),
    }
    return {
        name: [used.temperature, 100 * (used.threshold or 0), *measure(scores, test[1], used)]
        for name, (scores, used) in chosen.items()
    }


def main(argv: list[str] | None = None) -> None:
    """Print a Markdown table."""
    args = get_args_parser().parse_args(argv)
    tables = [rows_of(args.streams, val, test) for val, test in pairs(args)]
    print(f"| | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    for name in tables[0]:
        values = np.array([table[name] for table in tables])
        spreads = values.std(0, ddof=1) if len(values) > 1 else [None] * len(COLUMNS)
        cells = []
        for column, mean, spread in zip(COLUMNS, values.mean(0), spreads, strict=True):
            digits = 2 if column == "temperature" else 1
            cells.append(f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else ""))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
