"""The command line of predict.py and app.py: options, what goes together, and where outputs go."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from common.cli import ArgumentGroup, ArgumentParser, UserError, examples, positive, probability, whole_number
from common.records import FrameSettings, add_frame_arguments, alike, settings_from_arguments, settings_of
from dataloader.names import Video, folder_names, normal, stem
from dataloader.split_train_test_video import read_class_index
from fusion.metrics import fuse, read_calibration
from network import Model, classifier, for_testing, read_model
from pose.estimators import add_estimator_arguments, estimator_from_arguments
from pose.keypoints import FILE_NAME
from pose.people import add_cleaning_arguments, cleaning_from_arguments
from prediction.classify import Classifier, Fusion, Options
from prediction.timeline import MINIMUM, SUFFIXES, Plan
from training.streams import FLOW, MOTION_POSE, SKELETON, SPATIAL, STREAMS, Stream
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
    text = "written by motion_pose_cnn_15.py; finds people by --model, or takes --keypoints"
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
    """Refuse to go on without streams, or with weights that are not one for each."""
    streams = len(checkpoints(args))
    if not streams:
        raise UserError("no stream to classify with; give --spatial, --motion, --flow or --skeleton CHECKPOINT")
    try:
        fuse([np.zeros(1)] * streams, args.weights)
    except ValueError:
        weights = " ".join(f"{weight:g}" for weight in args.weights)
        raise UserError(f"--weights {weights}: give {streams} numbers >= 0, one a stream, not all 0") from None


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, or that would write over a video."""
    check_streams(args)
    if bool(args.live) == bool(args.videos):
        raise UserError("give either videos to classify or --live SOURCE")
    others = ("json", "overlay", "parts", "timeline", "keypoints") if args.live else ("csv",)
    for name in filter(vars(args).get, others):
        raise UserError(f"--{name} {'does not go with' if args.live else 'needs'} --live SOURCE")
    if args.parts and (args.timeline or not args.skeleton):
        raise UserError(f"--parts {args.parts}: is of whole videos and --skeleton CHECKPOINT")
    pictures = [path.with_suffix(suffix) for path in output_paths(args.timeline, args.videos) for suffix in SUFFIXES]
    files = [path for file in (args.overlay, args.parts) for path in output_paths(file, args.videos)]
    for path in filter(None, [*files, *pictures, args.json]):
        if path.is_dir() or path.resolve() in map(Path.resolve, args.videos):
            raise UserError(f"{path}: is a folder or one of the videos to classify; give another file to write")


def output_paths(file: Path | None, videos: Sequence[Path]) -> list[Path]:
    """Where each video's output goes: `file`, or `FILE-NAME.mp4` of several videos, numbered if names repeat."""
    if file is None or len(videos) == 1:
        return [file] if file else []
    names = [stem(video.name) for video in videos]
    repeated = [names[:place].count(name) for place, name in enumerate(names)]
    ends = (f"-{name}" + f"-{count + 1}" * (count > 0) for name, count in zip(names, repeated, strict=True))
    return [file.with_name(file.stem + end + file.suffix) for end in ends]


def find_keypoints(source: Path, video: Path) -> Path:
    """The keypoints file of a video: `source`, or one in `source` or in its folder `VIDEO` or `CLASS/VIDEO`."""
    if not source.is_dir():
        return source
    listed = Video(stem(video.name), 0, normal(video.resolve().parent.name), str(video))
    for folder in ("", *folder_names(listed)):
        if (source / folder / FILE_NAME).is_file():
            return source / folder / FILE_NAME
    raise UserError(f"no keypoints for it; expected {source / stem(video.name) / FILE_NAME}")


def add_class_arguments(parser: ArgumentGroup) -> None:
    """Add --ucf-list and --class-index, the `class_index` of `load_for_testing`, to a parser or one of its groups."""
    add = parser.add_argument
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="class indices")
    text = "class index within --ucf-list, read only if a checkpoint does not name its classes"
    add("--class-index", metavar="FILE", default="classInd15.txt", help=text)


def load_for_testing(path: Path, stream: Stream, class_index: Path, device: torch.device) -> Model:
    """A stream's checkpoint with its network made for testing, on `device`.

    The file `class_index` names the classes of a checkpoint that does not.
    """
    model = read_model(path, stream.in_channels, stream.family)
    if model.classes is None:
        model.classes = read_class_index(class_index)
        count = classifier(model.network).out_features
        if len(model.classes) != count:
            found = f"does not name its {count} classes, and {class_index} has {len(model.classes)}"
            raise UserError(f"{path}: {found}; give the --class-index that it was trained with")
    model.network = for_testing(model.network, device)
    return model


def prepare(args: argparse.Namespace, keypoints: bool, overlay: bool) -> Classifier:
    """Load what `args` ask for; nobody is estimated where there are `keypoints`."""
    device = pick_device(args.device)
    models = {
        stream.name: load_for_testing(path, stream, args.ucf_list / args.class_index, device)
        for stream, path in checkpoints(args).items()
    }
    classes = common_classes(list(models.values()))
    calibrations = {name: read_calibration(model.checkpoint) for name, model in models.items()}
    settings = settings_from_arguments(args, common_settings(models, args))
    looking = [] if keypoints else [model for name, model in models.items() if STREAMS[name].of_people]
    poses = next(filter(None, (model.checkpoint.get("poses") for model in looking)), {})
    estimator = None
    if looking or (overlay and not keypoints and (args.model or args.pose_weights)):
        estimator = estimator_from_arguments(args, poses)
        unlike = [name for name, value in estimator.settings.items() if poses.get(name) != value]
        if unlike and "model" in poses:
            made = f"{unlike[0]} = {poses.get(unlike[0])}, now it is {estimator.settings[unlike[0]]}"
            print(f"warning: {looking[0].path} was trained on people found with {made}", file=sys.stderr)
    if not (settings.fps or settings.rate or args.every or getattr(args, "live", None)):
        unknown = "the checkpoints do not tell at what rate their frames came"
        print(f"{unknown}: each one of a video is taken, 25 a second of a camera; --fps chooses", file=sys.stderr)
    cleaning = cleaning_from_arguments(args, float(settings.per_second()), poses)
    options = Options(settings, cleaning, poses.get("every") or 1, overlay, args.amp and computes_in_half(device))
    return Classifier(models, Fusion(classes, calibrations, args.weights, args.threshold), estimator, options)


def common_classes(models: Sequence[Model]) -> list[str]:
    """The classes of all streams, which must know the same in the same order."""
    for model in models:
        for first, other in zip_longest(models[0].classes, model.classes, fillvalue="none"):
            if first != other:
                unlike = f"{models[0].path} and {model.path} were trained on different classes ({first!r}, {other!r})"
                raise UserError(f"{unlike}; give checkpoints of the same class index")
    return models[0].classes


def common_settings(models: Mapping[str, Model], args: argparse.Namespace) -> FrameSettings | None:
    """How the frames that the streams were trained on were made; None if no checkpoint tells.

    They must agree in what `args`, of `add_frame_arguments`, leaves open. What one does not tell is as the other's, and
    the JPEG that people were found in does not matter.
    """
    of_poses = (MOTION_POSE.name, SKELETON.name)
    common: FrameSettings | None = None
    for name, model in sorted(models.items(), key=lambda item: item[0] in of_poses):
        made = settings_of(model.checkpoint)
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
