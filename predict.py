"""Say what people do in videos: frames, poses, the streams and their fusion in one go.

    python predict.py clip.avi --spatial record/spatial/model_best.pth.tar \
        --motion record/motion_pose/model_best.pth.tar
    python predict.py --live 0 --csv seen.csv --spatial … --motion …
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, UserError, positive, probability, run, whole_number
from common.frame_settings import FrameSettings, add_frame_arguments, settings_from_arguments
from common.optical_flow import flow_method
from common.video import decode_frames, frame_rate
from dataloader.names import Video, VideoFolders, normal, stem
from fusion.calibration import read_calibration
from fusion.metrics import fuse
from network import Model
from pose.estimators import Estimator, add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME, load_keypoints
from pose.smoothing import add_cleaning_arguments, cleaning_from_arguments
from prediction.classify import (
    Options,
    Prediction,
    add_class_arguments,
    check_same_classes,
    classify,
    common_settings,
    load_for_testing,
)
from prediction.live import run_live
from prediction.onnx_model import is_onnx
from prediction.overlay import write_overlay
from prediction.parts import part_relevance, shown_frames, write_parts
from prediction.results import Fusion, bars_of, describe, print_result, write_results
from training.resume import trained_poses
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, Stream
from utils import pick_device

BARS = 3  # classes in an overlay


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Classify videos with trained streams: decode, find people, test the streams, fuse.",
        epilog="A video is decoded twice, with --overlay three times, so that only a few of its frames are in memory "
        "at once. The answer is always one of the classes that the streams were trained on, unless it is less probable "
        "than --threshold: then it is none of these. --live handles the newest frame, skips what comes meanwhile, and "
        "resamples each window to the streams' rate of training (--fps, or 25 / --every); Ctrl-C ends it, with status "
        "0. Exit status 1: some videos could not be classified.",
    )
    add, number = parser.add_argument, whole_number(1)
    add("videos", nargs="*", type=Path, metavar="VIDEO", help="video files")
    add("--topk", type=number, metavar="K", default=3, help="number of classes to print")
    add("--json", type=Path, metavar="FILE", help="write logits and probabilities of all classes")
    text = "write a silent video with skeletons, on every frame, and the 3 best classes; of several: FILE-NAME.mp4"
    add("--overlay", type=Path, metavar="FILE.mp4", help=text)
    text = (
        "write a picture of which parts spoke for the best class of the skeleton stream, and when; of several videos: "
    )
    add("--parts", type=Path, metavar="FILE.png", help=text + "FILE-NAME.png")
    add = parser.add_argument_group("what a camera shows, while it shows it").add_argument
    text = "in place of videos: a camera (0, /dev/video0), an address (rtsp://…, http://…), or a file at its own speed"
    add("--live", metavar="SOURCE", help=text)
    add("--window", type=positive, metavar="SECONDS", default=4, help="seconds that are classified together")
    add("--stride", type=positive, metavar="SECONDS", default=1, help="seconds between two classifications")
    text = "with --live: append a line with the probabilities of all classes for each classification"
    add("--csv", type=Path, metavar="FILE.csv", help=text)
    group = parser.add_argument_group("streams, one or several: checkpoints, or .onnx files that export_onnx.py wrote")
    add = group.add_argument
    add("--spatial", type=Path, metavar="CHECKPOINT", help="written by spatial_cnn_15.py")
    text = "written by motion_pose_cnn_15.py; finds people by --model (default: rtmpose), or takes --keypoints"
    add("--motion", type=Path, metavar="CHECKPOINT", help=text)
    add("--flow", type=Path, metavar="CHECKPOINT", help="written by motion_cnn_15.py; needs OpenCV where flow is by it")
    text = "written by skeleton_gcn_15.py; needs the people of all frames"
    add("--skeleton", type=Path, metavar="CHECKPOINT", help=text)
    text = "of the spatial, motion, flow and skeleton stream in the fusion, one for each that is given (default: equal)"
    add("--weights", nargs="+", type=float, metavar="W", help=text)
    text = "least probability, 0..1, of an answer; below it, it is none of these (default: as chosen on the streams' "
    text += "validation videos, 95 %% of whose right answers reach it; none without these; 0: always answer)"
    add("--threshold", type=probability, metavar="P", help=text)
    add_class_arguments(group)
    text = "frames; what is not given is as the checkpoints were trained, else every 1, short side 256, quality 95"
    add_frame_arguments(parser.add_argument_group(text))
    add = parser.add_argument_group("people").add_argument
    text = "take people from this file, or from DIR/VIDEO/keypoints.npz, instead of estimating them"
    add("--keypoints", type=Path, metavar="FILE.npz|DIR", help=text)
    text = "cleaning of people (where not given, as for the motion checkpoint; --keypoints are taken as they are)"
    add_cleaning_arguments(parser.add_argument_group(text))
    add_estimator_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Classify each video; returns 1 if some could not be."""
    args = get_args_parser().parse_intermixed_args(argv)
    check_arguments(args)
    device = pick_device(args.device)
    class_index = args.ucf_list / args.class_index
    models = {
        stream.name: load_for_testing(path, stream, class_index, device) for stream, path in checkpoints(args).items()
    }
    check_same_classes(models.values())
    classes = next(iter(models.values())).classes
    calibrations = {name: read_calibration(model.checkpoint, model.path) for name, model in models.items()}
    fusion = Fusion(classes, calibrations, args.weights, args.threshold)
    looking = [models[stream.name] for stream in (MOTION_POSE, SKELETON) if stream.name in models]
    known = [trained_poses(model.checkpoint, model.path) for model in looking if not args.keypoints]
    poses = next(filter(None, known), {})
    estimator = make_estimator(args, poses)
    amp = args.amp and device.type == "cuda"
    settings = settings_from_arguments(args, common_settings(models.values(), args))
    cleaning = cleaning_from_arguments(args, float(settings.rate()), poses)
    flow = None
    if args.flow:  # computed as that of training
        flow = flow_method(models[FLOW.name].checkpoint.get("options", {}).get("flow_method") or "dis", device)
    options = Options(settings, cleaning, poses.get("every") or 1, bool(args.overlay), amp, flow)
    if args.live:
        shown = {"topk": args.topk, "csv": args.csv}
        run_live(args.live, models, estimator, options, fusion, window=args.window, stride=args.stride, **shown)
        return 0
    results = []
    files = (output_paths(file, args.videos) for file in (args.overlay, args.parts))
    for path, overlay, parts in zip(args.videos, *files, strict=True):
        result = {"video": str(path), "name": stem(path.name)}
        results.append(result)
        try:
            source = load_keypoints(find_keypoints(args.keypoints, path)) if args.keypoints else estimator
            prediction = classify(path, models, source, options)
            people = prediction.poses.people
            result.update(describe(prediction, fusion))
            print_result(result, args.topk)
            if people and not result["frames_with_people"]:
                black = "; the motion stream saw black images" * bool(args.motion)
                prior = "; the skeleton stream knows only its prior" * bool(args.skeleton)
                print(
                    f"warning: {path}: nobody found in the {len(people)} frames looked at{black}{prior}",
                    file=sys.stderr,
                )
            if overlay:
                with contextlib.closing(decode_frames(path, settings.every, fps=settings.fps)) as frames:
                    write_overlay(overlay, frames, people, bars_of(result, BARS), settings.rate(frame_rate(path)))
                result["overlay"] = str(overlay)
                print(f"  overlay: {overlay}", flush=True)
            if parts:
                write_parts_picture(parts, path, models[SKELETON.name], prediction, settings)
                result["parts"] = str(parts)
                print(f"  parts: {parts}", flush=True)
        except UserError as error:
            result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, models, fusion, settings)
    failed = [result for result in results if "error" in result]
    for result in failed:
        print(f"failed: {result['video']}: {result['error']}", file=sys.stderr)
    return 1 if failed else 0


def make_estimator(args: argparse.Namespace, trained: dict) -> Estimator | None:
    """What finds people: what found those that the streams were `trained` on, but for the options given.

    None if nobody is to be looked for. Says so if the two differ.
    """
    asked = args.model or args.pose_weights
    if args.keypoints or not (args.motion or args.skeleton or (args.overlay and asked)):
        return None
    estimator = estimator_from_arguments(args, trained)
    for name, value in estimator.settings.items() if "model" in trained else ():
        if trained.get(name) != value:
            made = f"was trained on people found with {name} = {trained.get(name)}, now it is {value}"
            print(f"warning: {args.motion or args.skeleton} {made}", file=sys.stderr)
            break
    return estimator


def write_parts_picture(file: Path, video: Path, model: Model, prediction: Prediction, settings: FrameSettings) -> None:
    """Write which parts spoke for the skeleton stream's best class, see `prediction.parts`."""
    label = int(prediction.logits[SKELETON.name].argmax())
    keypoints = prediction.poses.keypoints(prediction.num_frames)
    shown = shown_frames(prediction.num_frames)
    with contextlib.closing(decode_frames(video, settings.every, fps=settings.fps)) as frames:
        pictures = {number: rgb for number, rgb in enumerate(frames, 1) if number in shown}
    relevance = part_relevance(model, keypoints, label)
    write_parts(file, pictures, keypoints, relevance, f"{video.name}: {model.classes[label]}")


# ---- arguments ----


def checkpoints(args: argparse.Namespace) -> dict[Stream, Path]:
    """The streams that are given, in the order of --weights, and their checkpoints."""
    streams = {SPATIAL: args.spatial, MOTION_POSE: args.motion, FLOW: args.flow, SKELETON: args.skeleton}
    return {stream: path for stream, path in streams.items() if path}


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together; afterwards no `args.model` means not to estimate."""
    check_source(args)
    streams = len(checkpoints(args))
    if not streams:
        raise UserError("no stream to classify with; give --spatial, --motion, --flow or --skeleton CHECKPOINT")
    if args.weights and streams == 1:
        raise UserError("--weights are for fusing several streams; give more of them, or leave it out")
    try:
        fuse([np.zeros(1)] * streams, args.weights)
    except ValueError:
        weights = " ".join(f"{weight:g}" for weight in args.weights)
        raise UserError(f"--weights {weights}: give {streams} numbers >= 0, one a stream, not all 0") from None
    if args.keypoints and (args.model or args.pose_weights):
        raise UserError("--keypoints take the place of --model and --pose-weights; leave out one or the other")
    if args.keypoints and not args.keypoints.exists():
        raise UserError(f"--keypoints {args.keypoints}: no such file or folder")
    one_file = args.keypoints and (args.keypoints.is_file() or (args.keypoints / FILE_NAME).is_file())
    if one_file and len(args.videos) > 1:
        several = f"{len(args.videos)} videos; give the folder of their pose folders"
        raise UserError(f"--keypoints {args.keypoints}: one file for {several}")
    if args.overlay and args.overlay.suffix.lower() != ".mp4":
        raise UserError(f"--overlay {args.overlay}: the overlay is an MP4 video; give a name that ends in .mp4")
    sources = {path.resolve() for path in args.videos}
    if args.parts and (args.parts.suffix.lower() != ".png" or not args.skeleton):
        raise UserError(f"--parts {args.parts}: a PNG of the skeleton stream; give a .png, and --skeleton CHECKPOINT")
    if args.parts and is_onnx(args.skeleton):
        raise UserError(f"--parts {args.parts}: needs gradients, which {args.skeleton} has not; give its checkpoint")
    outputs = (*output_paths(args.overlay, args.videos), *output_paths(args.parts, args.videos), args.json)
    for path in outputs:
        if path and path.resolve() in sources:
            raise UserError(f"{path}: is one of the videos to classify; choose another name to write to")
        if path and path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file to write")


def check_source(args: argparse.Namespace) -> None:
    """Raise `UserError` unless there are videos, or what --live shows and nothing that only videos have."""
    if not args.live and not args.videos:
        raise UserError("nothing to classify; give video files, or --live SOURCE")
    if not args.live and args.csv:
        raise UserError(f"--csv {args.csv}: is of --live SOURCE; give --json for videos")
    others = [f"--{name}" for name in ("json", "overlay", "parts", "keypoints") if getattr(args, name)]
    others += ["video files"] * bool(args.videos)
    if args.live and others:
        raise UserError(f"--live {args.live}: does not go with {', '.join(others)}; leave out one or the other")


def output_paths(file: Path | None, videos: Sequence[Path]) -> list[Path | None]:
    """Where each video's output goes: `file`, or `FILE-NAME.mp4` of several videos, numbered if names repeat."""
    if file is None or len(videos) == 1:
        return [file] * len(videos)
    paths = []
    for video in videos:
        name = f"{file.stem}-{stem(video.name)}"
        numbered = (file.with_name(name + f"-{number}" * (number > 1) + file.suffix) for number in count(1))
        paths.append(next(path for path in numbered if path not in paths))
    return paths


def find_keypoints(source: Path, video: Path) -> Path:
    """The keypoints file of a video: `source`, or one in `source` or in its folder `VIDEO` or `CLASS/VIDEO`."""
    if not source.is_dir():
        return source
    listed = Video(stem(video.name), 0, normal(video.resolve().parent.name), str(video))
    for folder in ("", *VideoFolders(source).of(listed)):
        if (source / folder / FILE_NAME).is_file():
            return source / folder / FILE_NAME
    raise UserError(f"no keypoints for it; expected {source / stem(video.name) / FILE_NAME}")


if __name__ == "__main__":
    run(main)
