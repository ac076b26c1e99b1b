"""Streams ready for testing: checkpoints or ONNX files, and what several must agree on."""

from argparse import Namespace
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import torch

from common.cli import ArgumentGroup, UserError
from common.frame_settings import FrameSettings, settings_from_arguments
from dataloader.split_train_test_video import read_class_index
from network import Model, classifier, for_testing, read_model
from training.resume import trained_frames
from training.streams import Stream


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


def common_settings(models: Iterable[Model], args: Namespace) -> FrameSettings | None:
    """How the frames that the streams were trained on were made; None if no checkpoint tells.

    Raises `UserError` if two streams' differ in what `args`, of `add_frame_arguments`, leaves open.
    """
    known = [(model.path, trained_frames(model.checkpoint, model.path)) for model in models]
    known = [(path, settings) for path, settings in known if settings]
    for path, settings in known[1:]:
        first, other = (settings_from_arguments(args, made) for made in (known[0][1], settings))
        if first != other:
            made = f"{known[0][0]} was trained on frames made with {first}, {path} with {other}"
            raise UserError(f"{made}; choose with --every, --fps, --short-side, --quality")
    return known[0][1] if known else None
