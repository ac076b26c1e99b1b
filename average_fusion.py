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
from fusion.metrics import fuse
from fusion.scores import load_table, stack_scores, stream_names, weights_from_validation

STREAMS = ("spatial", "motion_pose")


def get_args_parser() -> ArgumentParser:
    """Arguments of the command line."""
    parser = ArgumentParser(
        description="Fuse score pickles: Prec@1 and Prec@3 of each stream and of the weighted mean of their scores, "
        "accuracy per class, confusion matrix.",
        epilog=examples(
            __doc__,
            "Weights auto are the most even ones whose Prec@1 on validation scores is within one standard error of "
            "the best. Several splits: the number of each takes the place of {split} in the paths; each is "
            "reported, and mean and standard deviation over them.",
        ),
    )
    add = parser.add_argument
    text = "scores of one stream each (default: record/NAME/NAME_video_preds.pickle of spatial and motion_pose, with "
    text += "several splits record/split{split}/NAME/NAME_video_preds.pickle)"
    add("pickles", nargs="*", metavar="PICKLE", help=text)
    add("--weights", nargs="+", metavar="W", help="one number >= 0 per PICKLE, or auto (default: equal)")
    text = "validation scores for --weights auto (default: the PICKLEs with _video_val_preds in place of _video_preds)"
    add("--val-scores", nargs="+", metavar="PICKLE", help=text)
    add = parser.group("lists").add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    add("--split", nargs="+", metavar="NN", default=["04"], help="test list, or several (default: 04)")
    add("--val-list", metavar="FILE", help="list within --ucf-list of the videos of --val-scores, as in training")
    add("--class-index", metavar="FILE", default="classInd15.txt", help="class index within --ucf-list")
    add = parser.group("results").add_argument
    add("--skip-missing", action="store_true", help="skip the videos that not every PICKLE has, and say which")
    add("--out", type=Path, metavar="DIR", default=Path("record/fusion"), help="where the results are written")
    add("--frames", type=Path, metavar="DIR", help="RGB frames, for misclassified.png")
    add("--pose-flow", type=Path, metavar="DIR", help="pose-flow images, for misclassified.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv`; raises `UserError`."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    results = [fuse_split(args, split) for split in args.split]
    several = len(results) > 1
    written = []
    for result in results:
        report.print_split(result)
        folder = args.out / f"split{result.split}" if several else args.out
        written += report.write_split(folder, result, [root for root in (args.frames, args.pose_flow) if root])
    if several:
        report.print_mean_and_std(results)
        title = f"Fusion, splits {', '.join(args.split)}"
        written += report.write_confusion(args.out, report.total_matrices(results)["fused"], results[0].classes, title)
    report.print_classes(results)
    report.write_summary(args.out / "summary.json", results)
    print("\nwritten: " + "\n         ".join(map(str, [*written, args.out / "summary.json"])))


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
    auto = args.weights == ["auto"]
    if not auto and (args.val_list or args.val_scores):
        raise UserError("--val-list and --val-scores are for choosing weights; add --weights auto")
    if auto and not args.val_scores:
        args.val_scores = [path.replace("_video_preds", "_video_val_preds") for path in args.pickles]
        for path in set(args.val_scores) & set(args.pickles):
            raise UserError(f"{path}: has no _video_preds in its name; give its --val-scores")
    if auto and len(args.val_scores) != len(args.pickles):
        raise UserError(f"--val-scores: {len(args.val_scores)} given for {len(args.pickles)} PICKLEs; give one each")
    fixed = [path for path in args.pickles + (args.val_scores or []) if "{split}" not in path]
    if several and fixed:
        raise UserError(f"{fixed[0]}: the same for {len(args.split)} splits; put {{split}} in its place in the path")
    if args.weights and not auto:
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


def fuse_split(args: argparse.Namespace, number: str) -> report.SplitResult:
    """Match the streams' scores to the test list of split `number`, choose weights if asked for, and fuse."""
    val_list = args.val_list and args.val_list.replace("{split}", number)
    split = read_split(args.ucf_list, number, args.class_index, val_list)
    test_list = str(args.ucf_list / f"testlist{number}.txt")
    names = stream_names(args.pickles)
    paths = [path.replace("{split}", number) for path in args.pickles]
    tables = [load_table(path, split.test, test_list, len(split.classes)) for path in paths]
    videos, scores = stack_scores(tables, split.test, paths, test_list, args.skip_missing)
    weights, validation = args.weights or [1.0] * len(paths), None
    if args.val_scores:
        val_paths = [path.replace("{split}", number) for path in args.val_scores]
        weights, validation = weights_from_validation(val_paths, split, args.skip_missing)
    fused, everywhere = fuse(scores, weights), set(videos)
    return report.SplitResult(
        split=number,
        classes=split.classes,
        videos=videos,
        skipped=[video.name for video in split.test if video not in everywhere],
        scores=dict(zip((*names, "fused"), (*scores, fused), strict=True)),
        paths=dict(zip(names, paths, strict=True)),
        weights={name: float(weight) / sum(weights) for name, weight in zip(names, weights, strict=True)},
        validation=validation,
    )


if __name__ == "__main__":
    run(main)
