"""The command line that the training scripts share, and what of it a checkpoint brings back."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli import ArgumentGroup, ArgumentParser, examples, not_negative, positive, whole_number
from common.parallel import cores
from network import ARCHITECTURES, IMAGE_NETWORKS, Family, check_architecture

# Options that make a run what it is: the checkpoint keeps them, and resuming takes them from there.
METHOD = (
    *("data", "every", "fps", "short_side", "ucf_list", "split", "class_index", "val_groups", "val_list", "seed"),
    *("arch", "image_size", "from_keypoints"),
    *("epochs", "batch_size", "accumulate", "lr", "schedule", "warmup", "lr_patience", "lr_steps", "momentum"),
    *("weight_decay", "dropout", "label_smoothing", "ema", "freeze_bn", "sync_bn", "test_every", "test_clips"),
    *("segments", "normalize", "crop", "color_jitter", "recipe", "least_steps", "flow_method"),
    *("optimizer", "clip_gradients", "amp"),
)
SELECTION = "scheduler and model selection use them, and the test list is scored once, at the end"

# ---- recipes: presets of the options ----
# The authors' method to the letter, and the best that was measured (docs/recipe.md).

_ORIGINAL = {
    "schedule": "plateau",
    "lr_patience": 1,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "freeze_bn": "none",
    "least_steps": 0,
    "test_every": 1,
    "test_clips": 19,
    "optimizer": "sgd",
    "clip_gradients": 0.0,
}
# What the modern recipe changes.
_MODERN = {
    "schedule": "cosine",
    "warmup": 1.0,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "ema": 0.98,
    "least_steps": 800,
    "test_every": None,
    "test_clips": 5,
}
# Temporal heads: a constant rate of Adam.
_TEMPORAL = _ORIGINAL | {"schedule": "step", "optimizer": "adam", "test_clips": 1, "test_every": None}
_TEMPORAL |= {"epochs": 30, "batch_size": 64, "least_steps": 300}
_SPATIAL = {"lr": 5e-4, "batch_size": 25, "epochs": 15, "crop": "random", "color_jitter": 0.0}
_SPATIAL |= {"normalize": True}  # with ImageNet's mean and standard deviation
_MOTION_POSE = {"lr": 1e-2, "batch_size": 64, "epochs": 50, "segments": 1, "normalize": False, "from_keypoints": False}
_FLOW = {"lr": 1e-2, "batch_size": 64, "epochs": 50, "segments": 1}
RECIPES = {
    "spatial": {
        "original": _ORIGINAL | _SPATIAL,
        "modern": _ORIGINAL | _SPATIAL | _MODERN | {"lr": 2e-3, "crop": "resized"},
    },
    "motion_pose": {
        "original": _ORIGINAL | _MOTION_POSE,
        "modern": _ORIGINAL | _MOTION_POSE | _MODERN | {"normalize": True, "from_keypoints": None},
    },
    # Two-Stream Networks' and TSN's flow with the settings of pose flow.
    "flow": {"original": _ORIGINAL | _FLOW, "modern": _ORIGINAL | _FLOW | _MODERN},
    # For few videos and slow machines, from random weights.
    "skeleton": {
        "modern": _ORIGINAL
        | _MODERN
        | {"lr": 0.05, "batch_size": 16, "epochs": 20, "dropout": 0.3, "least_steps": 600, "test_clips": 1}
    },
    # By head; those of TS-LSTM and Temporal-Inception (arXiv 1703.10667).
    "temporal": {
        "ts-lstm": _TEMPORAL | {"arch": "ts-lstm", "lr": 1e-4, "clip_gradients": 5.0},
        "inception": _TEMPORAL
        | {"arch": "inception", "lr": 5e-5, "batch_size": 16, "weight_decay": 0.1, "least_steps": 1000},
        "mean": _TEMPORAL | {"arch": "mean", "lr": 1e-3},
    },
}


# ---- the command line ----


def training_parser(stream: str, doc: str, data: str | None, family: Family = IMAGE_NETWORKS) -> ArgumentParser:
    """Parser of one stream's script, whose networks are of `family`; the defaults are those of its modern recipe.

    `doc` is the script's docstring: what it does, and example commands.
    `data` is where its images lie. Without it the stream knows its videos, lists and networks by itself (temporal
    heads), and a recipe goes with a network: `--head` chooses both.
    """
    recipes = RECIPES[stream]
    default = "modern" if "modern" in recipes else next(iter(recipes))
    parser = ArgumentParser(
        description=doc.partition("\n")[0] + " Trains, trains on with --resume, or tests with --evaluate.",
        epilog=examples(
            doc,
            "Several processes or machines: torchrun --nproc_per_node N SCRIPT with the same options. With batch "
            "norm in training mode each process has statistics of its own; --sync-bn shares them, --freeze-bn has "
            "none.",
        ),
    )
    parser.set_defaults(**recipes[default])
    data_group, model_group, training_group, machine_group = map(
        parser.add_argument_group, ("data", "model", "training", "machine")
    )
    if data:
        _add_data_arguments(data_group, data)
    _add_selection_arguments(data_group, bool(data))
    if data:
        _add_network_arguments(model_group, family)
        option, text = "--recipe", "presets of the options: the best that was measured (docs/recipe.md)"
        text += ", or the authors'" if "original" in recipes else ""
    else:
        parser.set_defaults(data=None, ucf_list=None, split=None, class_index=None, val_list=None, skip_broken=False)
        parser.set_defaults(write_features=None)
        option, text = "--head", "network, with its own presets of the options"
    _add_model_arguments(model_group, family)
    if not family.images:
        parser.set_defaults(image_size=None)
    training_group.add_argument(option, dest="recipe", choices=tuple(recipes), default=default, help=text)
    _add_training_arguments(training_group)
    _add_machine_arguments(machine_group, stream)
    return parser


def _add_selection_arguments(group: ArgumentGroup, lists: bool) -> None:
    """Validation set, which may be a list where there are `lists`."""
    selection = group.add_mutually_exclusive_group()
    selection.add_argument(
        "--val-groups",
        type=numbers_of("group numbers such as 23,24,25"),
        metavar="N,N",
        default=(),
        help=f"hold these groups of the training list out as the validation set: {SELECTION}",
    )
    if lists:
        text = f"validation set: a list within --ucf-list, such as vallist01.txt; {SELECTION}"
        selection.add_argument("--val-list", metavar="FILE", help=text)
    group.add_argument(
        "--allow-other-split",
        action="store_true",
        help="resume or test a checkpoint that was trained on other videos than this training list names",
    )


def _add_data_arguments(group: ArgumentGroup, data: str) -> None:
    """Folders and lists of videos."""
    add = group.add_argument
    add("--data", type=Path, metavar="DIR", default=Path(data), help="folders of images or keypoints, one per video")
    add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    add("--split", metavar="NN", default="04", help="number of the train and test list")
    add("--class-index", metavar="FILE", default="classInd15.txt", help="class index within --ucf-list")
    add("--skip-broken", action="store_true", help="skip missing and broken videos, and list them at the end")


def _add_network_arguments(group: ArgumentGroup, family: Family) -> None:
    """Which network of the family, and what it sees."""
    add = group.add_argument
    if family.images:
        text = f"network: {', '.join(ARCHITECTURES)}, or any of timm's by its name"
        add("--arch", type=check_architecture, metavar="NAME", default=ARCHITECTURES[0], help=text)
        text = "side of the network's input, in pixels"
        add("--image-size", type=whole_number(32), metavar="N", default=224, help=text)
    else:
        add("--arch", choices=family.architectures, default=family.architectures[0], help="network")
    text = "with --evaluate: also write what the classifier sees of the videos of all lists, for temporal_cnn_15.py"
    add("--features", type=Path, metavar="FILE.npz", dest="write_features", help=text)
    text = "evenly spaced positions of a video in --features"
    add("--positions", type=whole_number(1), metavar="K", default=25, help=text)


def _add_model_arguments(group: ArgumentGroup, family: Family) -> None:
    """Where the weights come from, and whether they are only tested."""
    add = group.add_argument
    if family.images:
        text = "starting weights: those of ImageNet, which torchvision or timm downloads; random ones; or a file's"
        add("--weights", metavar="imagenet|none|FILE", default="imagenet", help=text)
    else:
        add("--weights", metavar="none|FILE", default="none", help="starting weights, such as another run's checkpoint")
    text = "train on from this checkpoint, or test it; options that are not given are the checkpoint's"
    add("--resume", type=Path, metavar="CHECKPOINT", help=text)
    add("--evaluate", action="store_true", help="test --resume, write the scores, and stop")


def _add_training_arguments(group: ArgumentGroup) -> None:
    """The method; most defaults are the recipe's."""
    add = group.add_argument
    add("--epochs", type=whole_number(0), metavar="N", help="epochs in all, unless --least-steps asks for more")
    add(
        "--least-steps",
        type=whole_number(0),
        metavar="N",
        help="without --epochs: as many epochs as make N optimiser steps, where few videos have too few",
    )
    add("--start-epoch", type=whole_number(0), metavar="N", help="first epoch, if not the one after --resume's last")
    add("--batch-size", type=whole_number(1), metavar="N", help="videos per optimiser step, over all processes")
    add(
        "--accumulate",
        type=whole_number(1),
        metavar="N",
        default=1,
        help="run each batch in N parts whose gradients are summed, for small memories; the same step with "
        "--freeze-bn all, otherwise batch norm sees the statistics of each part",
    )
    add("--lr", type=positive, metavar="X", help="learning rate")
    add(
        "--schedule",
        choices=("cosine", "plateau", "step"),
        help="of the learning rate: half a cosine to 0, a tenth when the validation loss stalls, or a tenth at "
        "--lr-steps",
    )
    add("--warmup", type=not_negative, metavar="EPOCHS", help="linear rise of the rate at the start (not with plateau)")
    add(
        "--lr-patience",
        type=whole_number(0),
        metavar="N",
        help="plateau: epochs without a lower validation loss before the rate is cut to a tenth",
    )
    epochs = numbers_of("epochs such as 10,13")
    add("--lr-steps", type=epochs, metavar="E,E", default=(), help="step: epochs at which the rate is cut")
    add("--momentum", type=not_negative, metavar="X", default=0.9, help="SGD momentum")
    add("--weight-decay", type=not_negative, metavar="X", help="L2 penalty on all weights")
    add("--dropout", type=not_negative, metavar="P", help="before the classifier (TSN, arXiv 1608.00859)")
    add("--label-smoothing", type=not_negative, metavar="X", help="of the cross-entropy (arXiv 1512.00567)")
    add(
        "--ema",
        type=not_negative,
        metavar="DECAY",
        help="test an exponential moving average of the weights, such as 0.99 (0: the weights themselves)",
    )
    add("--seed", type=whole_number(0), metavar="N", default=0, help="seed of weights, order and augmentation")
    add(
        "--freeze-bn",
        nargs="?",
        choices=("none", "partial", "all"),
        const="partial",
        help="keep batch norm's running statistics: of all layers but the first, as TSN does (partial, or without a "
        "value), or of all",
    )
    add(
        "--sync-bn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="batch-norm statistics over all processes (CUDA)",
    )
    add(
        "--test-every",
        type=whole_number(1),
        metavar="N",
        help="test after every N-th epoch, and after the last (modern recipe: 20 tests in a run)",
    )
    add(
        "--test-clips",
        type=whole_number(1),
        metavar="N",
        help="samples of a video in the tests between epochs; the final test always takes all",
    )


def _add_machine_arguments(group: ArgumentGroup, stream: str) -> None:
    """Where to compute and where to write."""
    add = group.add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    add(
        "--workers",
        type=whole_number(0),
        metavar="N",
        default=min(cores(), 8),
        help="processes that read images, per training process; 0 reads in the process itself",
    )
    add(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="mixed precision (default: on CUDA, and processors with bfloat16); without it CUDA's convolutions still "
        "compute in TF32",
    )
    add("--compile", action="store_true", help="compile the network with torch.compile for training")
    add(
        "--record",
        type=Path,
        metavar="DIR",
        help=f"where checkpoints, records and scores are written (default: record/{stream}, or the folder of --resume)",
    )
    add("--overwrite", action="store_true", help="remove the run that --record holds, and start a new one there")


def parse_options(parser: ArgumentParser, stream: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line of `stream`'s script; `given` of the result is the set of options that stood on it.

    With `--resume` a `--recipe` counts as all the options it sets, for those are what the user asks for.
    """
    absent, names = object(), {action.dest for action in parser._actions}
    marked = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, absent)))
    given = {name for name in names if getattr(marked, name, absent) is not absent}
    if "recipe" in given:
        presets = RECIPES[stream][marked.recipe]
        parser.set_defaults(**presets)
        given |= presets.keys() if "resume" in given else set()
    args = argparse.Namespace(**vars(parser.parse_args(argv)), given=given)
    own = Path("record", stream, "" if args.data else args.recipe)  # heads differ as streams do
    args.record = args.record or (args.resume.parent if args.resume else own)
    return args


def restore_options(args: argparse.Namespace, saved: dict) -> dict[str, tuple]:
    """Set the options of `METHOD` that were not given to those of a checkpoint, in place.

    Returns the given ones that differ: name → (checkpoint's value, given value).
    """
    changed = {}
    for name in METHOD:
        if name in saved and hasattr(args, name):
            value = tuple(saved[name]) if isinstance(saved[name], list) else saved[name]
            value = Path(value) if isinstance(value, str) and isinstance(getattr(args, name), Path) else value
            if name not in args.given:
                setattr(args, name, value)
            elif getattr(args, name) != value:
                changed[name] = value, getattr(args, name)
    return changed


def numbers_of(what: str) -> Callable[[str], tuple[int, ...]]:
    """An argparse type: whole numbers between commas; `what` they are, and an example, is for the message."""

    def parse(text: str) -> tuple[int, ...]:
        if not re.fullmatch(r"\d+(,\d+)*", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {what}")
        return tuple(sorted({int(number) for number in text.split(",")}))

    return parse
