"""The command line of predict.py and app.py: options, what goes together, and where outputs go."""

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, zip_longest
from pathlib import Path

import numpy as np
import torch

from common.cli import ArgumentGroup, ArgumentParser, UserError, examples, positive, probability, whole_number
from common.records import FrameSettings, add_frame_arguments, alike, settings_from_arguments
from dataloader.names import Video, VideoFolders, is_video, normal, stem
from dataloader.split_train_test_video import read_class_index
from fusion.metrics import fuse, read_calibration
from network import Model, classifier, for_testing, read_model
from pose.estimators import Estimator, add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME
from pose.people import add_cleaning_arguments, cleaning_from_arguments
from prediction.classify import Classifier, Fusion, Options
from prediction.timeline import MINIMUM, Plan
from prediction.timeline_files import SUFFIXES
from training.resume import trained_frames, trained_poses
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, Stream
from utils import computes_in_half, pick_device

USAGE = """
python predict.py clip.avi --spatial record/spatial/model_best.pth.tar \\
    --motion record/motion_pose/model_best.pth.tar --overlay clip_seen.mp4
python predict.py match.mp4 --timeline match.png \\
    --skeleton record/skeleton/model_best.pth.tar
python predict.py --live 0 --csv seen.csv \\
    --spatial record/spatial/model_best.pth.tar
"""
MORE = (
    "A video is decoded twice, with --timeline once, with --overlay once more, so that only a few of its frames are in "
    "memory at once. The answer is always one of the classes that the streams were trained on, unless it is less "
    "probable than --threshold: then it is none of these. --live handles the newest frame, skips what comes meanwhile "
    "and resamples each window to the streams' rate of training (--fps, or 25 / --every); Ctrl-C ends it, status 0. "
    "Exit status 1: some videos could not be classified."
)


def get_args_parser() -> ArgumentParser:
    """Command line of predict.py."""
    description = "Classify videos with trained streams: decode, find people, test the streams, fuse."
    parser = ArgumentParser(description=description, epilog=examples(USAGE, MORE))
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
    add = parser.add_argument_group("what happens when, in a long video or before a camera").add_argument
    text = "write a picture of the classes over time, and windows and segments as .csv, .json and subtitles (.srt); of "
    add("--timeline", type=Path, metavar="FILE.png", help=text + "several videos: FILE-NAME.png")
    text = "in place of videos: a camera (0, /dev/video0), an address (rtsp://…, http://…), or a file at its own speed"
    add("--live", metavar="SOURCE", help=text)
    text = "length of a window, tested as a video is"
    add("--window", type=positive, metavar="SECONDS", default=Plan().length, help=text)
    text = "from the start of a window to the next one's"
    add("--stride", type=positive, metavar="SECONDS", default=Plan().stride, help=text)
    text = "with --live: append a line with the probabilities of all classes for each window"
    add("--csv", type=Path, metavar="FILE.csv", help=text)
    add_stream_arguments(parser)
    add = parser.add_argument_group("people").add_argument
    text = "take people from this file, or from DIR/VIDEO/keypoints.npz, instead of estimating them"
    add("--keypoints", type=Path, metavar="FILE.npz|DIR", help=text)
    add_people_arguments(parser)
    return parser


def add_stream_arguments(parser: ArgumentParser) -> None:
    """Add the options that say with which streams to classify, and how they were trained."""
    group = parser.add_argument_group("streams, one or several")
    add = group.add_argument
    add("--spatial", type=Path, metavar="CHECKPOINT", help="written by spatial_cnn_15.py")
    text = "written by motion_pose_cnn_15.py; finds people by --model (default: rtmpose), or takes --keypoints"
    add("--motion", type=Path, metavar="CHECKPOINT", help=text)
    add("--flow", type=Path, metavar="CHECKPOINT", help="written by motion_cnn_15.py; needs OpenCV where flow is by it")
    text = "written by skeleton_gcn_15.py; needs the people of all frames"
    add("--skeleton", type=Path, metavar="CHECKPOINT", help=text)
    text = "of the spatial, motion, flow and skeleton stream in the fusion, one for each that is given (default: equal)"
    add("--weights", nargs="+", type=float, metavar="W", help=text)
    text = (
        "least probability, 0..1, of an answer; below it, it is none of these (default: as chosen on the streams' "
        "validation videos, 95 %% of whose right answers reach it; none without these, but "
        f"{MINIMUM} for windows of --timeline; 0: always answer)"
    )
    add("--threshold", type=probability, metavar="P", help=text)
    add_class_arguments(group)
    text = "frames; what is not given is as the checkpoints were trained, else every 1, short side 256, quality 95"
    add_frame_arguments(parser.add_argument_group(text))


def add_people_arguments(parser: ArgumentParser) -> None:
    """Add the options that say how people are found and cleaned."""
    text = "cleaning of people (where not given, as for the motion checkpoint; --keypoints are taken as they are)"
    add_cleaning_arguments(parser.add_argument_group(text))
    add_estimator_arguments(parser)


def checkpoints(args: argparse.Namespace) -> dict[Stream, Path]:
    """The streams that are given, in the order of --weights, and their checkpoints."""
    streams = {SPATIAL: args.spatial, MOTION_POSE: args.motion, FLOW: args.flow, SKELETON: args.skeleton}
    return {stream: path for stream, path in streams.items() if path}


def check_streams(args: argparse.Namespace) -> None:
    """Raise `UserError` unless there are streams, and as many weights if any."""
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


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    check_source(args)
    check_streams(args)
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


def check_source(args: argparse.Namespace) -> None:
    """Raise `UserError` unless there are videos, or what --live shows and nothing that only videos have."""
    if not args.live and not args.videos:
        raise UserError("nothing to classify; give video files, or --live SOURCE")
    if not args.live and args.csv:
        raise UserError(f"--csv {args.csv}: is of --live SOURCE; give --json for videos")
    of_videos = ("json", "overlay", "parts", "timeline", "keypoints")
    others = [f"--{name}" for name in of_videos if getattr(args, name)]
    others += ["video files"] * bool(args.videos)
    if args.live and others:
        raise UserError(f"--live {args.live}: does not go with {', '.join(others)}; leave out one or the other")
    for path in filter(Path.is_dir, args.videos):
        videos = sorted(filter(is_video, path.glob("*")))
        example = f"all of its videos with {path}/*{videos[0].suffix}" if videos else "video files, such as clip.mp4"
        raise UserError(f"{path}: is a folder; give {example}")
    if args.videos and not any(path.exists() for path in args.videos):
        raise UserError(f"{args.videos[0]}: no such file; give video files")


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


# ---- streams ----


def add_class_arguments(parser: ArgumentGroup) -> None:
    """Add --ucf-list and --class-index, the `class_index` of `load_for_testing`, to a parser or one of its groups."""
    add = parser.add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="class indices")
    text = "class index within --ucf-list, read only if a checkpoint does not name its classes"
    add("--class-index", metavar="FILE", default="classInd15.txt", help=text)


def load_for_testing(path: Path, stream: Stream, class_index: Path, device: torch.device) -> Model:
    """A stream's checkpoint with its network made for testing, on `device`.

    The file `class_index` names the classes of a checkpoint that does not. Raises `UserError` if it is no checkpoint,
    or another stream's.
    """
    model = read_model(path, stream.in_channels, stream.family)
    if model.classes is None:
        unnamed = f"{path}: does not name its {classifier(model.network).out_features} classes"
        if not class_index.is_file():
            raise UserError(f"{unnamed}, and {class_index} is missing; give --ucf-list and --class-index")
        model.classes = read_class_index(class_index)
        if len(model.classes) != classifier(model.network).out_features:
            found = f"{class_index} has {len(model.classes)}"
            raise UserError(f"{unnamed}, and {found}; give the --class-index that it was trained with")
    model.network = for_testing(model.network, device)
    return model


def check_same_classes(models: Iterable[Model]) -> None:
    """Raise a `UserError` that tells the difference unless all know the same classes in the same order."""
    first, *others = models
    for other in others:
        for number, names in enumerate(zip_longest(first.classes, other.classes, fillvalue="missing"), 1):
            if names[0] != names[1]:
                raise UserError(
                    f"{first.path} and {other.path} were trained on different classes: number {number} is "
                    f"{names[0]!r} in one, {names[1]!r} in the other; give checkpoints of the same class index"
                )


def common_settings(models: Mapping[str, Model], args: Namespace) -> FrameSettings | None:
    """How the frames that the streams were trained on were made; None if no checkpoint tells.

    Raises `UserError` if two streams' differ in what `args`, of `add_frame_arguments`, leaves open. What one does not
    tell is as the other's, and the JPEG that people were found in does not matter.
    """
    of_poses = (MOTION_POSE.name, SKELETON.name)
    common: FrameSettings | None = None
    for name, model in sorted(models.items(), key=lambda item: item[0] in of_poses):
        made = trained_frames(model.checkpoint, model.path)
        if common is None:
            common, first = made, model.path
        elif made:
            quality = common.quality if name in of_poses else made.quality
            made = replace(made, short_side=made.short_side or common.short_side, quality=quality)
            common = replace(common, short_side=common.short_side or made.short_side)
            one, other = (settings_from_arguments(args, settings) for settings in (common, made))
            if one != other or not alike(one.rate, other.rate):
                told = f"{first} was trained on frames made with {one}, {model.path} with {other}"
                raise UserError(f"{told}; choose with --every, --fps, --short-side, --quality")
            common = replace(common, rate=common.rate or made.rate)
    return common


# ---- from options to what classifies videos ----


def prepare(args: argparse.Namespace, keypoints: bool, overlay: bool) -> Classifier:
    """Load what `args` ask for; nobody is estimated where there are `keypoints`. Raises `UserError`."""
    device = pick_device(args.device)
    class_index = args.ucf_list / args.class_index
    models = {
        stream.name: load_for_testing(path, stream, class_index, device) for stream, path in checkpoints(args).items()
    }
    check_same_classes(models.values())
    calibrations = {name: read_calibration(model.checkpoint) for name, model in models.items()}
    fusion = Fusion(next(iter(models.values())).classes, calibrations, args.weights, args.threshold)
    looking = [models[stream.name] for stream in (MOTION_POSE, SKELETON) if stream.name in models]
    known = [trained_poses(model.checkpoint, model.path) for model in looking if not keypoints]
    poses = next(filter(None, known), {})
    estimator = None
    if not keypoints and (args.motion or args.skeleton or (overlay and (args.model or args.pose_weights))):
        estimator = make_estimator(args, poses)
    settings = settings_from_arguments(args, common_settings(models, args))
    if not (settings.fps or settings.rate or args.every):
        unknown = "the checkpoints do not tell at what rate their frames came"
        print(f"{unknown}: each frame of a video is taken; --fps chooses another rate", file=sys.stderr)
    cleaning = cleaning_from_arguments(args, float(settings.per_second()), poses)
    amp = args.amp and computes_in_half(device)
    return Classifier(models, fusion, estimator, Options(settings, cleaning, poses.get("every") or 1, overlay, amp))


def make_estimator(args: argparse.Namespace, trained: dict) -> Estimator:
    """What finds people: what found those that the streams were `trained` on, but for the options given.

    Says so if the two differ.
    """
    estimator = estimator_from_arguments(args, trained)
    for name, value in estimator.settings.items() if "model" in trained else ():
        if trained.get(name) != value:
            made = f"was trained on people found with {name} = {trained.get(name)}, now it is {value}"
            print(f"warning: {args.motion or args.skeleton} {made}", file=sys.stderr)
            break
    return estimator
