"""Say what people do in videos: frames, poses, the streams and their fusion in one go.

    python predict.py clip.avi --spatial record/spatial/model_best.pth.tar \
        --motion record/motion_pose/model_best.pth.tar
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from common.cli import ArgumentParser, UserError, positive, probability, run, whole_number
from common.frame_settings import FrameSettings, add_frame_arguments, settings_from_arguments
from common.optical_flow import flow_method
from common.video import decode_frames, frame_rate
from dataloader.names import Video, VideoFolders, normal, stem
from fusion.metrics import fuse
from network import Model
from pose.estimators import Estimator, add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME, load_keypoints
from pose.smoothing import add_cleaning_arguments, cleaning_from_arguments
from prediction.classify import Options, Prediction, check_same_classes, classify, common_settings, load_for_testing
from prediction.overlay import write_overlay
from prediction.parts import part_relevance, shown_frames, write_parts
from prediction.results import describe, print_result, top_classes, write_results
from prediction.segments import classes_of_frames, segments
from prediction.timeline import Plan, classify_windows
from prediction.timeline_files import SUFFIXES, describe_timeline, print_segments, write_timeline
from training.resume import trained_poses
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, Stream
from utils import pick_device

BARS = 3  # classes in an overlay


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Classify videos with trained streams: decode, find people, test the streams, fuse.",
        epilog="A video is decoded twice, with --timeline once, with --overlay once more, so that only a few of its "
        "frames are in memory at once. Exit status 1: some videos could not be classified.",
    )
    add, number = parser.add_argument, whole_number(1)
    add("videos", nargs="+", type=Path, metavar="VIDEO", help="video files")
    add("--topk", type=number, metavar="K", default=3, help="number of classes to print")
    add("--json", type=Path, metavar="FILE", help="write logits and probabilities of all classes")
    text = "write a silent video with skeletons, on every frame, and the 3 best classes; of several: FILE-NAME.mp4"
    add("--overlay", type=Path, metavar="FILE.mp4", help=text)
    text = (
        "write a picture of which parts spoke for the best class of the skeleton stream, and when; of several videos: "
    )
    add("--parts", type=Path, metavar="FILE.png", help=text + "FILE-NAME.png")
    add = parser.add_argument_group("what happens when, in a long video").add_argument
    text = "write a picture of the classes over time, and windows and segments as .csv, .json and subtitles (.srt); of "
    add("--timeline", type=Path, metavar="FILE.png", help=text + "several videos: FILE-NAME.png")
    add("--window", type=positive, metavar="SECONDS", default=4, help="length of a window, tested as a video is")
    add("--stride", type=positive, metavar="SECONDS", default=1, help="from the start of a window to the next one's")
    text = "a window whose likeliest class is less probable has none"
    add("--minimum", type=probability, metavar="P", default=0.3, help=text)
    add = parser.add_argument_group("streams, one or several").add_argument
    add("--spatial", type=Path, metavar="CHECKPOINT", help="written by spatial_cnn_15.py")
    text = "written by motion_pose_cnn_15.py; finds people by --model (default: rtmpose), or takes --keypoints"
    add("--motion", type=Path, metavar="CHECKPOINT", help=text)
    add("--flow", type=Path, metavar="CHECKPOINT", help="written by motion_cnn_15.py; needs OpenCV where flow is by it")
    text = "written by skeleton_gcn_15.py; needs the people of all frames"
    add("--skeleton", type=Path, metavar="CHECKPOINT", help=text)
    text = "of the spatial, motion, flow and skeleton stream in the fusion, one for each that is given (default: equal)"
    add("--weights", nargs="+", type=float, metavar="W", help=text)
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="class indices")
    text = "class index within --ucf-list, read only if a checkpoint does not name its classes"
    add("--class-index", metavar="FILE", default="classInd15.txt", help=text)
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
    results = []
    files = (output_paths(file, args.videos) for file in (args.overlay, args.parts, args.timeline))
    for path, overlay, parts, timeline in zip(args.videos, *files, strict=True):
        result = {"video": str(path), "name": stem(path.name)}
        results.append(result)
        try:
            source = load_keypoints(find_keypoints(args.keypoints, path)) if args.keypoints else estimator
            if timeline:
                plan = Plan(args.window, args.stride)
                windows = classify_windows(path, models, source, options, plan, args.weights)
                found, people = segments(windows, args.minimum), windows.poses.people
                result.update(describe_timeline(windows, found, classes, args.weights))
                panel = classes_of_frames(windows, classes, BARS)
            else:
                prediction = classify(path, models, source, options)
                people = prediction.poses.people
                result.update(describe(prediction, classes, args.weights))
                panel = partial(lambda top, number: top, top_classes(result["fused"], BARS))
            print_result(result, args.topk)
            warn_of_nobody(path, result, args)
            if timeline:
                write_timeline(timeline, windows, found, classes, args.minimum, path.name)
                result["timeline"] = str(timeline)
                print_segments(found, classes)
                print(f"  timeline: {timeline}, and .csv, .json, .srt beside it", flush=True)
            if overlay:
                with contextlib.closing(decode_frames(path, settings.every, fps=settings.fps)) as frames:
                    write_overlay(overlay, frames, people, panel, settings.rate(frame_rate(path)))
                result["overlay"] = str(overlay)
                print(f"  overlay: {overlay}", flush=True)
            if parts:
                write_parts_picture(parts, path, models[SKELETON.name], prediction, settings)
                result["parts"] = str(parts)
                print(f"  parts: {parts}", flush=True)
        except UserError as error:
            result["error"] = " ".join(str(error).split())
    if args.json:
        write_results(args.json, results, models, args.weights, settings)
    failed = [result for result in results if "error" in result]
    for result in failed:
        print(f"failed: {result['video']}: {result['error']}", file=sys.stderr)
    return 1 if failed else 0


def warn_of_nobody(video: Path, result: dict, args: argparse.Namespace) -> None:
    """Say so if people were looked for and nobody was found."""
    if result["frames_looked_at"] and not result["frames_with_people"]:
        black = "; the motion stream saw black images" * bool(args.motion)
        prior = "; the skeleton stream knows only its prior" * bool(args.skeleton)
        nobody = f"nobody found in the {result['frames_looked_at']} frames looked at"
        print(f"warning: {video}: {nobody}{black}{prior}", file=sys.stderr)


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
    if args.timeline and args.timeline.suffix.lower() != ".png":
        raise UserError(f"--timeline {args.timeline}: the picture is a PNG; give a name that ends in .png")
    if args.timeline and args.parts:
        raise UserError("--parts are of a whole video, --timeline is of its windows; leave out one or the other")
    files = [path for file in (args.overlay, args.parts) for path in output_paths(file, args.videos)]
    pictures = filter(None, output_paths(args.timeline, args.videos))
    outputs = [*files, *(path.with_suffix(suffix) for path in pictures for suffix in SUFFIXES), args.json]
    for number, path in enumerate(outputs):
        if path and path in outputs[:number]:
            raise UserError(f"{path}: would be written twice; choose another name for one of the two")
        if path and path.resolve() in sources:
            raise UserError(f"{path}: is one of the videos to classify; choose another name to write to")
        if path and path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file to write")


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
