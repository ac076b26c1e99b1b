"""Fuse the saved scores of the streams: accuracy of each and of their weighted mean, confusion matrix."""

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, print_table, run
from common.frames import FRAME_NAME
from dataloader.frame_index import index_frames
from dataloader.split_train_test_video import read_split
from fusion.matching import (
    MAX_SEARCHED,
    common_videos,
    load_table,
    match_names,
    some,
    stream_names,
    weights_from_validation,
)
from fusion.metrics import confusion_matrix, fuse, precision, softmax
from fusion.plots import Mistake, plot_confusion, plot_misclassified
from fusion.scores import save_scores

STREAMS = ("spatial", "motion_pose")
MISTAKES = 12  # shown in misclassified.png
FEW_VIDEOS = 50  # with fewer, a difference of a few points of Prec@1 is chance


def get_args_parser() -> ArgumentParser:
    """Arguments of the command line."""
    parser = ArgumentParser(
        description="Fuse score pickles: Prec@1 and Prec@3 of each stream and of the weighted mean of their scores, "
        "accuracy per class, confusion matrix.",
        epilog="Several splits: average_fusion.py 'runs/{split}/spatial_video_preds.pickle' "
        "'runs/{split}/motion_pose_video_preds.pickle' --split 01 02 03 puts each split's number in place of "
        "{split}, reports each split, and mean and standard deviation over them.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument(
        "pickles",
        nargs="*",
        metavar="PICKLE",
        help="scores of one stream each, any number of them; default: "
        "record/NAME/NAME_video_preds.pickle of spatial and motion_pose, with several splits "
        "record/split{split}/NAME/NAME_video_preds.pickle",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="W",
        help="one number >= 0 per PICKLE (default: equal), or auto: the most even weights whose Prec@1 on validation "
        "scores is within one standard error of the best",
    )
    parser.add_argument(
        "--val-scores",
        nargs="+",
        metavar="PICKLE",
        help="validation scores for --weights auto, in the order of the streams (default: the "
        "PICKLEs with _video_val_preds in place of _video_preds, which training with "
        "--val-groups writes)",
    )
    parser.add_argument(
        "--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists (default: %(default)s)"
    )
    parser.add_argument("--split", nargs="+", metavar="NN", default=["04"], help="test list, or several (default: 04)")
    parser.add_argument(
        "--class-index",
        metavar="FILE",
        default="classInd15.txt",
        help="class index within --ucf-list (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out the videos that not every PICKLE has, and say which"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("record/fusion"),
        help="where the results are written (default: %(default)s)",
    )
    parser.add_argument("--frames", type=Path, metavar="DIR", help="RGB frames, for misclassified.png")
    parser.add_argument("--pose-flow", type=Path, metavar="DIR", help="pose-flow images, for misclassified.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv`; raises `UserError`."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    with contextlib.suppress(AttributeError):  # a name that the terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    results = [fuse_split(args, split) for split in args.split]
    several = len(results) > 1
    written = []
    for result in results:
        print_figures(result)
        folder = args.out / f"split{result['split']}" if several else args.out
        written += write_split(folder, result, args.frames, args.pose_flow)
    totals = {name: sum(result["matrices"][name] for result in results) for name in results[0]["matrices"]}
    classes = results[0]["classes"]
    if several:
        print_spread(results)
        written += write_confusion(args.out, totals["fused"], classes, f"Fusion, splits {', '.join(args.split)}")
    streams = [name for name in totals if name != "fused"]
    print_classes(classes, totals, max(streams, key=lambda name: np.trace(totals[name])))
    written.append(write_summary(args.out / "summary.json", results, classes, totals))
    print("\nwritten: " + "\n         ".join(map(str, written)))


def check_arguments(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on others; raises `UserError` for arguments that cannot be right."""
    args.split = list(dict.fromkeys(args.split))
    for option, values in (("--split", args.split), ("--weights", args.weights or ())):
        stray = [value for value in values if "/" in value or value.endswith(".pickle")]
        if stray:
            raise UserError(f"{option} got {stray[0]!r}; name the PICKLEs before {option}")
    several = len(args.split) > 1
    folder = "record/split{split}" if several else "record"
    args.pickles = args.pickles or [f"{folder}/{name}/{name}_video_preds.pickle" for name in STREAMS]
    args.search = args.weights == ["auto"]
    if args.search and not args.val_scores:
        args.val_scores = [path.replace("_video_preds", "_video_val_preds") for path in args.pickles]
        unchanged = set(args.val_scores) & set(args.pickles)
        if unchanged:
            raise UserError(f"{min(unchanged)}: has no _video_preds in its name; give its --val-scores")
    if args.val_scores and not args.search:
        raise UserError("--val-scores are for choosing weights; add --weights auto")
    if args.search and len(args.val_scores) != len(args.pickles):
        raise UserError(f"--val-scores: {len(args.val_scores)} given for {len(args.pickles)} PICKLEs; give one each")
    if args.search and len(args.pickles) > MAX_SEARCHED:
        raise UserError(f"--weights auto: at most {MAX_SEARCHED} streams are searched, got {len(args.pickles)}")
    fixed = [path for path in args.pickles + (args.val_scores or []) if "{split}" not in path]
    if several and fixed:
        raise UserError(f"{fixed[0]}: the same for {len(args.split)} splits; put {{split}} in its place in the path")
    if args.weights and not args.search:
        try:
            args.weights = [float(weight) for weight in args.weights]
            fuse([np.zeros(1)] * len(args.pickles), args.weights)
        except ValueError:
            raise UserError(
                f"--weights {' '.join(map(str, args.weights))}: give auto, or one number >= 0 for each of "
                f"the {len(args.pickles)} PICKLEs, not all 0"
            ) from None
    for option, root in (("--frames", args.frames), ("--pose-flow", args.pose_flow)):
        if root and not (root.is_dir() and any(root.iterdir())):
            raise UserError(f"{root}: {'empty' if root.is_dir() else 'no such'} folder; see {option}")


def fuse_split(args: argparse.Namespace, number: str) -> dict:
    """Everything about one split: scores (N, classes) of each stream and fused, figures, confusion matrices."""
    split = read_split(args.ucf_list, number, args.class_index)
    test_list = str(args.ucf_list / f"testlist{number}.txt")
    names = stream_names(args.pickles)
    paths = [path.replace("{split}", number) for path in args.pickles]
    tables = [match_names(load_table(path, split, args.class_index), split.test, path, test_list) for path in paths]
    videos = common_videos(tables, split.test, paths, test_list, args.skip_missing)
    labels = np.array([video.label for video in videos])
    scores = {
        name: np.stack([table[video.name] for video in videos]) for name, table in zip(names, tables, strict=True)
    }
    weights, chosen = args.weights or [1.0] * len(paths), None
    if args.search:
        val_paths = [path.replace("{split}", number) for path in args.val_scores]
        weights, chosen = weights_from_validation(val_paths, split, args.class_index, args.skip_missing)
    scores["fused"] = fuse(list(scores.values()), weights)
    classes, there = len(split.classes), set(videos)
    return {
        "split": number,
        "classes": split.classes,
        "videos": videos,
        "labels": labels,
        "scores": scores,
        "paths": dict(zip(names, paths, strict=True)),
        "chosen": chosen,
        "weights": {name: float(weight) / sum(weights) for name, weight in zip(names, weights, strict=True)},
        "left_out": [video.name for video in split.test if video not in there],
        "figures": {name: precision(matrix, labels) for name, matrix in scores.items()},
        "matrices": {name: confusion_matrix(matrix.argmax(1), labels, classes) for name, matrix in scores.items()},
    }


# ---- printing ----


def print_figures(result: dict) -> None:
    """Table of one split: weight, Prec@1 and Prec@3 of each stream, and of the fusion."""
    print(f"\nsplit {result['split']}: {len(result['videos'])} videos, {len(result['classes'])} classes")
    if result["left_out"]:
        print(f"left out: {len(result['left_out'])} videos that not every stream has ({some(result['left_out'])})")
    weights = {name: f"{weight:.2f}" for name, weight in result["weights"].items()}
    if result["chosen"]:
        chosen = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        print(
            f"weights chosen: {chosen} (Prec@1 {result['chosen']['prec1']:.2f} on the {result['chosen']['videos']} "
            f"validation videos, {result['chosen']['best_prec1']:.2f} with the best weights)"
        )
    print_table(
        ("", "weight", "Prec@1", "Prec@3"),
        [
            (name, weights.get(name, ""), f"{top1:.2f}", f"{top3:.2f}")
            for name, (top1, top3) in result["figures"].items()
        ],
    )
    for note in find_notes(result):
        print(f"note: {note}")


def find_notes(result: dict) -> list[str]:
    """Why a split's results mean little: few videos, or a fusion that is worse than its best stream."""
    counts = {"test": len(result["videos"])}
    if result["chosen"]:
        counts["validation"] = result["chosen"]["videos"]
    notes = [
        f"{count} {which} videos are few: each counts for {100 / count:.1f} points of Prec@1"
        for which, count in counts.items()
        if count < FEW_VIDEOS
    ]
    top1 = {name: values[0] for name, values in result["figures"].items()}
    fused = top1.pop("fused")
    best = max(top1, key=top1.get)
    if fused < top1[best]:
        notes.append(
            f"the fusion ({fused:.2f}) is below {best} alone ({top1[best]:.2f}); "
            "--weights auto chooses weights on validation scores"
        )
    return notes


def print_spread(results: Sequence[dict]) -> None:
    """Table of mean and standard deviation over several splits."""
    print(f"\nmean ± standard deviation over the {len(results)} splits")
    rows = [
        (name, *(f"{mean:.2f} ± {std:.2f}" for mean, std in spread(results, name))) for name in results[0]["figures"]
    ]
    print_table(("", "Prec@1", "Prec@3"), rows)


def spread(results: Sequence[dict], name: str) -> list[tuple[float, float]]:
    """Mean and sample standard deviation (n − 1) over the splits of a stream's Prec@1 and Prec@3."""
    figures = np.array([result["figures"][name] for result in results])
    return list(zip(figures.mean(0).tolist(), figures.std(0, ddof=1).tolist(), strict=True))


def print_classes(classes: Sequence[str], totals: dict[str, np.ndarray], best: str) -> None:
    """Table of each class: number of videos, Prec@1 of the streams and fused, and what fusing gains on `best`."""
    accuracies = {name: class_accuracy(matrix) for name, matrix in totals.items()}
    gains = accuracies["fused"] - accuracies[best]
    rows = [
        (
            name,
            str(int(videos)),
            *("-" if videos == 0 else f"{values[i]:.1f}" for values in accuracies.values()),
            "-" if videos == 0 else f"{gains[i]:+.1f}",
        )
        for i, (name, videos) in enumerate(zip(classes, totals["fused"].sum(1), strict=True))
    ]
    print("\nPrec@1 of each class")
    print_table(("class", "videos", *accuracies, f"fused - {best}"), rows)


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Percent of each class's videos on the diagonal; 0 for a class without videos."""
    return 100.0 * matrix.diagonal() / np.maximum(matrix.sum(1), 1)


# ---- writing ----


def write_split(folder: Path, result: dict, frames: Path | None, pose_flow: Path | None) -> list[Path]:
    """Write fused scores, confusion matrix and, given image folders, the mistakes; returns the paths."""
    scores = folder / "fusion_video_preds.pickle"
    names = [video.name for video in result["videos"]]
    save_scores(scores, dict(zip(names, result["scores"]["fused"], strict=True)))
    written = [
        scores,
        *write_confusion(
            folder,
            result["matrices"]["fused"],
            result["classes"],
            f"Fusion of {', '.join(result['paths'])}, split {result['split']}",
        ),
    ]
    roots = [root for root in (frames, pose_flow) if root]
    if roots:
        plot_misclassified(find_mistakes(result, roots), folder / "misclassified.png")
        written.append(folder / "misclassified.png")
    return written


def write_confusion(folder: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> list[Path]:
    """Write a confusion matrix (counts, rows are true classes) as conf_matrix.png and .csv."""
    plot_confusion(matrix, classes, folder / "conf_matrix.png", title)
    with atomic_write(folder / "conf_matrix.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("true \\ predicted", *classes))
        writer.writerows((name, *row) for name, row in zip(classes, matrix.tolist(), strict=True))
    return [folder / "conf_matrix.png", folder / "conf_matrix.csv"]


def find_mistakes(result: dict, roots: Sequence[Path]) -> list[Mistake]:
    """The most confident mistakes, each with its middle frame below every one of `roots` that has it."""
    scores = result["scores"]["fused"].astype(np.float64)
    predicted = scores.argmax(1)
    probability = softmax(scores)[np.arange(len(scores)), predicted]
    # Where probabilities saturate, the lead over the true class tells which mistake is worse.
    lead = scores.max(1) - scores[np.arange(len(scores)), result["labels"]]
    wrong = np.flatnonzero(predicted != result["labels"])
    wrong = wrong[np.lexsort((-lead[wrong], -probability[wrong]))][:MISTAKES]
    videos = [result["videos"][i] for i in wrong]
    images = {video.name: [] for video in videos}
    for root in roots:
        found = {item.video.name: item for item in index_frames(root, videos)[0]}
        for name, pictures in images.items():
            item = found.get(name)
            middle = item and Path(item.folder, FRAME_NAME.format((item.num_frames + 1) // 2))
            pictures.append(middle)
    return [
        Mistake(
            video.name, video.class_name, result["classes"][predicted[i]], float(probability[i]), images[video.name]
        )
        for i, video in zip(wrong, videos, strict=True)
    ]


def write_summary(path: Path, results: Sequence[dict], classes: Sequence[str], totals: dict) -> Path:
    """Write the figures as JSON."""

    def figures(values: Sequence[float]) -> dict[str, float]:
        return {"prec1": values[0], "prec3": values[1]}

    summary = {
        "splits": [
            {
                "split": result["split"],
                "videos": len(result["videos"]),
                "left_out": result["left_out"],
                "scores": result["paths"],
                "weights": result["weights"],
                "weights_chosen_on_validation": result["chosen"],
                "figures": {name: figures(values) for name, values in result["figures"].items()},
            }
            for result in results
        ],
        "classes": [
            {
                "class": name,
                "videos": int(totals["fused"][i].sum()),
                "prec1": {stream: float(class_accuracy(matrix)[i]) for stream, matrix in totals.items()},
            }
            for i, name in enumerate(classes)
        ],
    }
    if len(results) > 1:
        over_splits = {name: list(zip(*spread(results, name), strict=True)) for name in totals}
        summary["mean"] = {name: figures(mean) for name, (mean, _) in over_splits.items()}
        summary["std"] = {name: figures(std) for name, (_, std) in over_splits.items()}
    with atomic_write(path, "wb") as file:  # names of files may not be valid Unicode
        file.write(json.dumps(summary, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    return path


if __name__ == "__main__":
    run(main)
