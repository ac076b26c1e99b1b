"""Fuse the saved scores of the streams: accuracy of each and of their weighted mean, confusion matrix.

python average_fusion.py --frames data/jpegs_256 --pose-flow data/pose_flow
python average_fusion.py record/spatial/spatial_video_preds.pickle \\
    record/skeleton/skeleton_video_preds.pickle --weights 1 1.5
python average_fusion.py --weights auto --val-list vallist01.txt --split 01
python average_fusion.py 'runs/{split}/spatial_video_preds.pickle' \\
    'runs/{split}/motion_pose_video_preds.pickle' --split 01 02 03
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, UserError, examples, run
from dataloader.split_train_test_video import read_split
from fusion import report
from fusion.metrics import fuse, precision
from fusion.scores import choose_weights, load_table, load_validation, stack_scores

STREAMS = ("spatial", "motion_pose")


def get_args_parser() -> ArgumentParser:
    """Arguments of the command line."""
    parser = ArgumentParser(
        description="Fuse score pickles: Prec@1 and Prec@3 of each stream and of the weighted mean of their scores, "
        "accuracy per class, confusion matrix.",
        epilog=examples(
            __doc__,
            "Weights auto are the most even ones whose loss on validation scores is within one standard error of the "
            "least. Several splits: the number of each takes the place of {split} in the paths; each is "
            "reported, and mean and standard deviation over them.",
        ),
    )
    add = parser.add_argument
    text = "scores of one stream each (default: record/NAME/NAME_video_preds.pickle of spatial and motion_pose, with "
    text += "several splits record/split{split}/NAME/NAME_video_preds.pickle)"
    add("pickles", nargs="*", metavar="PICKLE", help=text)
    add("--weights", nargs="+", metavar="W", help="one number >= 0 per PICKLE, or auto (default: equal)")
    text = "validation scores (default: the PICKLEs with _video_val_preds in place of _video_preds)"
    add("--val-scores", nargs="+", metavar="PICKLE", help=text)
    add = parser.group("lists").add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    add("--split", nargs="+", metavar="NN", default=["04"], help="test list, or several (default: 04)")
    add("--val-list", metavar="FILE", help="list within --ucf-list of the validation videos, as in training")
    add("--class-index", metavar="FILE", default="classInd15.txt", help="class index within --ucf-list")
    add = parser.group("results").add_argument
    add("--skip-missing", action="store_true", help="skip the videos that not every PICKLE has, and say which")
    add("--out", type=Path, metavar="DIR", default=Path("record/fusion"), help="where the results are written")
    add("--frames", type=Path, metavar="DIR", help="RGB frames or videos, for misclassified.png")
    add("--pose-flow", type=Path, metavar="DIR", help="pose folders, for misclassified.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv`."""
    args = get_args_parser().parse_intermixed_args(argv)
    several = len(args.split) > 1
    folder = "record/split{split}" if several else "record"
    args.pickles = args.pickles or [f"{folder}/{name}/{name}_video_preds.pickle" for name in STREAMS]
    if args.val_scores and len(args.val_scores) != len(args.pickles):
        raise UserError(f"--val-scores: {len(args.val_scores)} given for {len(args.pickles)} PICKLEs; give one each")
    weights = None if args.weights == ["auto"] else given_weights(args)
    results = [fuse_split(args, split, weights) for split in args.split]
    for result in results:
        report.print_split(result)
        out = args.out / f"split{result.split}" if several else args.out
        report.write_split(out, result, [root for root in (args.frames, args.pose_flow) if root])
    if several:
        report.print_mean_and_std(results)
        matrix = np.sum([result.matrix for result in results], axis=0)
        report.write_confusion(args.out, matrix, results[0].classes, f"Fusion, splits {', '.join(args.split)}")
    report.print_classes(results)
    report.write_summary(args.out / "summary.json", results)
    print(f"\nwritten to {args.out}")


def given_weights(args: argparse.Namespace) -> list[float]:
    """--weights in numbers, one per PICKLE; equal ones by default."""
    try:
        weights = list(map(float, args.weights or [1.0] * len(args.pickles)))
        fuse([np.zeros(1)] * len(args.pickles), weights)
    except ValueError:
        raise UserError(
            f"--weights {' '.join(args.weights)}: give auto, or one number >= 0 for each of the {len(args.pickles)} "
            "PICKLEs, not all 0"
        ) from None
    return weights


def stream_names(paths: Sequence[str]) -> list[str]:
    """A short name for each pickle, numbered where file names repeat."""
    names = [Path(path).stem.removesuffix("_video_preds") for path in paths]
    unique = len(set(names) - {"fused"}) == len(names)
    return names if unique else [f"{name} #{i}" for i, name in enumerate(names, 1)]


def fuse_split(args: argparse.Namespace, number: str, weights: Sequence[float] | None) -> report.SplitResult:
    """Match the streams' scores to the test list of split `number`, choose weights if None are given, and fuse."""
    val_list = args.val_list and args.val_list.replace("{split}", number)
    split = read_split(args.ucf_list, number, args.class_index, val_list)
    test_list = str(args.ucf_list / f"testlist{number}.txt")
    paths = [path.replace("{split}", number) for path in args.pickles]
    tables = [load_table(path, split.test, test_list, len(split.classes)) for path in paths]
    videos, scores = stack_scores(tables, split.test, paths, test_list, args.skip_missing)
    names, validation, everywhere = stream_names(args.pickles), None, set(videos)
    val_paths = args.val_scores or [path.replace("_video_preds", "_video_val_preds") for path in args.pickles]
    val_paths = [path.replace("{split}", number) for path in val_paths]
    try:
        val_videos, val_scores = load_validation(val_paths, split, args.skip_missing)
    except UserError:
        if weights is None or args.val_scores:  # else they are looked at where they are there
            raise
    else:
        labels = np.array([video.label for video in val_videos])
        validation = {"weights_chosen": weights is None, "videos": len(labels), "scores": val_paths}
        weights = weights or choose_weights(val_scores, labels)
        fused = zip((*names, "fused"), (*val_scores, fuse(val_scores, weights)), strict=True)
        validation["prec1"] = {name: precision(values, labels)[0] for name, values in fused}
    return report.SplitResult(
        split=number,
        classes=split.classes,
        videos=videos,
        skipped=[video.name for video in split.test if video not in everywhere],
        scores=dict(zip((*names, "fused"), (*scores, fuse(scores, weights)), strict=True)),
        paths=dict(zip(names, paths, strict=True)),
        weights={name: float(weight) / sum(weights) for name, weight in zip(names, weights, strict=True)},
        validation=validation,
    )


if __name__ == "__main__":
    run(main)
