"""Say what people do in videos: frames, poses, the streams and their fusion in one go.

Examples: python predict.py --help
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.cli import UserError, print_first, run
from common.video import frames_of
from dataloader.names import stem
from pose.keypoints import load_keypoints
from prediction.arguments import check_arguments, find_keypoints, get_args_parser, output_paths, prepare
from prediction.classify import Classifier, Prediction, bars_of, classify, describe, print_result, write_results
from prediction.live import run_live
from prediction.overlay import write_overlay
from prediction.parts import part_relevance, shown_frames, write_parts
from prediction.timeline import (
    Plan,
    bars_of_frames,
    classify_windows,
    describe_timeline,
    print_segments,
    write_timeline,
)
from training.streams import SKELETON

BARS = 3  # classes in an overlay


def main(argv: Sequence[str] | None = None) -> int:
    """Classify each video; returns 1 if some could not be."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    classifier = prepare(args, bool(args.keypoints), bool(args.overlay))
    if args.live:
        run_live(args.live, classifier, Plan(args.window, args.stride), args.topk, args.csv)
        return 0
    results = [{"video": str(path), "name": stem(path.name)} for path in args.videos]
    for number, result in enumerate(results):
        try:
            classify_video(number, classifier, args, result)
        except UserError as error:
            result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, classifier)
    failed = [result for result in results if "error" in result]
    lines = [f"failed: {result['video']}: {result['error']}" for result in failed]
    print_first(lines, f"all in {args.json}" if args.json else "--json FILE would name all")
    return 1 if failed else 0


def classify_video(number: int, classifier: Classifier, args: argparse.Namespace, result: dict) -> None:
    """Classify a video of `args`, whole or by windows, print what is found into `result`, and write what is asked."""
    path, fusion = args.videos[number], classifier.fusion
    outputs = (args.overlay, args.parts, args.timeline)
    overlay, parts, timeline = (file and output_paths(file, args.videos)[number] for file in outputs)
    if args.keypoints:
        classifier = classifier._replace(people=load_keypoints(find_keypoints(args.keypoints, path)))
    if timeline:
        windows = classify_windows(path, classifier, Plan(args.window, args.stride))
        result.update(describe_timeline(windows, fusion))
        people, bars = windows.poses, bars_of_frames(windows, BARS)
    else:
        prediction = classify(path, classifier)
        result.update(describe(prediction, fusion))
        people, shown = prediction.window.people, bars_of(result, BARS)
        bars = partial(lambda shown, number: shown, shown)
    print_result(result, args.topk)
    if timeline:
        write_timeline(timeline, windows, path.name)
        print_segments(result["segments"])
    if overlay:
        write_overlay(overlay, path, people, bars, classifier.options.frames)
    if parts and SKELETON.name in prediction.logits:
        write_parts_picture(parts, path, prediction, classifier)
    else:
        parts = None
    for name, file in (("timeline", timeline), ("overlay", overlay), ("parts", parts)):
        if file:
            result[name] = str(file)
            print(f"  {name}: {file}", flush=True)


def write_parts_picture(file: Path, video: Path, prediction: Prediction, classifier: Classifier) -> None:
    """Write which parts spoke for the skeleton stream's best class, see `prediction.parts`."""
    model, settings = classifier.models[SKELETON.name], classifier.options.frames
    label, window = int(prediction.logits[SKELETON.name].argmax()), prediction.window
    shown, settings = sorted(shown_frames(window.num_frames)), replace(settings, short_side=None)
    pictures = dict(zip(shown, frames_of(video, settings, wanted=shown), strict=True))
    relevance = part_relevance(model, window.keypoints, label)
    write_parts(file, pictures, window.keypoints, relevance, f"what spoke for {model.classes[label]}, {video.name}")


if __name__ == "__main__":
    run(main)
