"""Say what people do in videos: frames, poses, the streams and their fusion in one go.

Examples: python predict.py --help
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from common.cli import UserError, print_first, run
from common.records import FrameSettings
from common.video import decode_frames
from dataloader.names import stem
from network import Model
from pose.keypoints import load_keypoints
from prediction.arguments import Classifier, check_arguments, find_keypoints, get_args_parser, output_paths, prepare
from prediction.classify import Prediction, bars_of, classify, describe, print_result, write_results
from prediction.live import run_live
from prediction.overlay import Bars, overlay_video
from prediction.parts import part_relevance, shown_frames, write_parts
from prediction.timeline import Plan, bars_of_frames, classify_windows, least_probability, segments
from prediction.timeline_files import describe_timeline, print_segments, write_timeline
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
    results = []
    files = (output_paths(file, args.videos) for file in (args.overlay, args.parts, args.timeline))
    for path, overlay, parts, timeline in zip(args.videos, *files, strict=True):
        result = {"video": str(path), "name": stem(path.name)}
        results.append(result)
        try:
            classify_video(path, classifier, args, result, overlay, parts, timeline)
        except UserError as error:
            result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, classifier.models, classifier.fusion, classifier.options.frames)
    failed = [result for result in results if "error" in result]
    lines = [f"failed: {result['video']}: {result['error']}" for result in failed]
    print_first(lines, f"all in {args.json}" if args.json else "--json FILE would name all")
    return 1 if failed else 0


def classify_video(
    path: Path,
    classifier: Classifier,
    args: argparse.Namespace,
    result: dict,
    overlay: Path | None,
    parts: Path | None,
    timeline: Path | None,
) -> None:
    """Classify a video, as a whole or window by window, print what is found into `result`, and write what is asked."""
    models, fusion, estimator, options = classifier
    source = load_keypoints(find_keypoints(args.keypoints, path)) if args.keypoints else estimator
    if timeline:
        windows = classify_windows(path, models, source, options, Plan(args.window, args.stride), fusion)
        minimum, people = least_probability(fusion), windows.poses.people
        found = segments(windows, minimum)
        result.update(describe_timeline(windows, found, fusion))
        bars = bars_of_frames(windows, fusion.classes, BARS, minimum)
    else:
        prediction = classify(path, models, source, options)
        people = prediction.poses.people
        result.update(describe(prediction, fusion))
        whole = bars_of(result, BARS)

        def bars(number: int) -> Bars:
            return whole

    print_result(result, args.topk)
    if timeline:
        write_timeline(timeline, windows, found, fusion.classes, minimum, path.name)
        result["timeline"] = str(timeline)
        print_segments(found, fusion.classes)
        print(f"  timeline: {timeline}, and .csv, .json, .srt beside it", flush=True)
    if overlay:
        overlay_video(overlay, path, people, bars, options.frames)
        result["overlay"] = str(overlay)
        print(f"  overlay: {overlay}", flush=True)
    if parts and SKELETON.name in prediction.logits:
        write_parts_picture(parts, path, models[SKELETON.name], prediction, options.frames)
        result["parts"] = str(parts)
        print(f"  parts: {parts}", flush=True)


def write_parts_picture(file: Path, video: Path, model: Model, prediction: Prediction, settings: FrameSettings) -> None:
    """Write which parts spoke for the skeleton stream's best class, see `prediction.parts`."""
    label = int(prediction.logits[SKELETON.name].argmax())
    keypoints = prediction.poses.keypoints(prediction.num_frames)
    shown = shown_frames(prediction.num_frames)
    with contextlib.closing(decode_frames(video, settings.every, fps=settings.fps)) as frames:
        pictures = {number: rgb for number, rgb in enumerate(frames, 1) if number in shown}
    relevance = part_relevance(model, keypoints, label)
    write_parts(file, pictures, keypoints, relevance, f"what spoke for {model.classes[label]}, {video.name}")


if __name__ == "__main__":
    run(main)
