"""Calibration error and the answer "none of these": chosen on validation scores, reported on test scores.

    python -m benchmarks.calibration 'results/recipes/{stream}/modern/demo_seed{seed}' --seeds 0 1 2 \
        --ucf-list 'demo/seed{seed}/UCF_list'

A folder holds the score pickles of a run with a validation set. "unknown" are the test videos with the logit of their
own class left out, so that none of the other classes is theirs: a stand-in for videos of classes that were not trained.
"""

from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, run
from dataloader.split_train_test_video import read_split
from fusion.calibration import (
    Calibration,
    calibrate,
    choose_threshold,
    combine,
    expected_calibration_error,
    fit_temperature,
)
from fusion.matching import load_table, match_names, stack_scores
from fusion.metrics import fuse, softmax


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
    return parser


def load_scores_of(args, seed: str, what: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits (N, C) of each stream and labels (N,) of a run's "val" or "test" videos."""
    split = read_split(Path(args.ucf_list.format(seed=seed)), args.split, args.class_index)
    listed = split.test if what == "test" else split.train
    suffix = "_video_preds" if what == "test" else "_video_val_preds"
    folders = [Path(args.folder.format(stream=stream, seed=seed)) for stream in args.streams]
    paths = [str(folder / f"{stream}{suffix}.pickle") for folder, stream in zip(folders, args.streams, strict=True)]
    tables = [match_names(load_table(path, split, args.class_index), listed, path, "the list") for path in paths]
    there = [video for video in listed if video.name in tables[0]]
    videos, scores = stack_scores(tables, there, paths, what, skip_missing=False)
    return dict(zip(args.streams, scores, strict=True)), np.array([video.label for video in videos])


def measure(logits: np.ndarray, labels: np.ndarray, calibration: Calibration) -> list[float]:
    """In percent: ECE, share of videos with "none of these", Prec@1 of the answered ones, "none" of the unknown."""
    unknown = np.array(logits, np.float64)
    unknown[np.arange(len(labels)), labels] = -np.inf
    probabilities = softmax(logits / calibration.temperature)
    answered = probabilities.max(1) >= (calibration.threshold or 0)
    right = (probabilities.argmax(1) == labels)[answered].mean() if answered.any() else np.nan
    refused = softmax(unknown / calibration.temperature).max(1) < (calibration.threshold or 0)
    error = expected_calibration_error(probabilities, labels)
    return [100 * value for value in (error, 1 - answered.mean(), right, refused.mean())]


def rows_of(args, seed: str) -> dict[str, list[float]]:
    """Of one seed: by what was done, temperature, threshold, and what `measure` says."""
    (val, val_labels), (test, labels) = (load_scores_of(args, seed, what) for what in ("val", "test"))
    kept = [calibrate(scores, val_labels) for scores in val.values()]
    own = [Calibration(entry["temperature"], entry["threshold"]) for entry in kept]
    fused, val_fused = fuse(list(test.values())), fuse(list(val.values()))
    fitted = fit_temperature(val_fused, val_labels)
    rule = combine(own)
    mean = float(np.mean([calibration.temperature for calibration in own]))

    def with_threshold(temperature: float) -> Calibration:
        return Calibration(temperature, choose_threshold(softmax(val_fused / temperature), val_labels))

    chosen = {}
    for (stream, scores), calibration in zip(test.items(), own, strict=True):
        chosen |= {f"{stream}, as it is": (scores, Calibration()), f"{stream}, calibrated": (scores, calibration)}
    chosen |= {
        "fused, as it is": (fused, Calibration()),
        "fused, mean temperature; threshold by validation scores": (fused, with_threshold(mean)),
        "fused, fitted to validation scores": (fused, with_threshold(fitted)),
        "fused, rule; threshold by validation scores": (fused, with_threshold(rule.temperature)),
        "**fused, rule, as in predict.py**": (fused, rule),
    }
    return {
        name: [used.temperature, 100 * (used.threshold or 0), *measure(scores, labels, used)]
        for name, (scores, used) in chosen.items()
    }


def main(argv: list[str] | None = None) -> None:
    """Print a Markdown table."""
    args = get_args_parser().parse_args(argv)
    tables = [rows_of(args, seed) for seed in args.seeds]
    print("| | temperature | threshold, % | ECE, % | none, % | Prec@1 of the answered | none of the unknown, % |")
    print("| --- |" + " ---: |" * 6)
    for name in tables[0]:
        values = np.array([table[name] for table in tables])
        spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(6)
        digits = (2, 1, 1, 1, 1, 1)
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(values.mean(0), spread, digits, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(main)
