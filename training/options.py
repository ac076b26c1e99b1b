"""The command line that the training scripts share, its presets, and what a checkpoint brings back of it."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.cli import ArgumentGroup, ArgumentParser, UserError, examples, not_negative, positive, whole_number
from common.parallel import cores
from network import ARCHITECTURES, IMAGE_NETWORKS, Family
from utils import load_checkpoint

# Options that make a run what it is: the checkpoint keeps them, and resuming takes them from there.
KEPT = (
    *("data", "every", "fps", "short_side", "ucf_list", "split", "class_index", "val_groups", "val_list", "seed"),
    *("arch", "image_size", "from_keypoints", "segments", "normalize", "crop", "color_jitter", "flow_method"),
    *("recipe", "epochs", "least_steps", "batch_size", "accumulate", "lr", "schedule", "warmup", "momentum"),
    *("weight_decay", "dropout", "label_smoothing", "ema", "freeze_bn", "sync_bn", "test_every", "test_clips"),
    *("optimizer", "clip_gradients", "amp", "keypoints"),
)

# ---- recipes: presets of the options ----
# The authors' method to the letter, and the best that was measured (docs/recipe.md).

_OFF = ("warmup", "weight_decay", "dropout", "label_smoothing", "ema", "clip_gradients")
_ORIGINAL = {"schedule": "plateau", "optimizer": "sgd", "freeze_bn": "none", "test_every": 1, "test_clips": 19}
_ORIGINAL |= dict.fromkeys(_OFF, 0.0) | {"least_steps": 0}
# What the modern recipe changes.
_MODERN = {"schedule": "cosine", "warmup": 1.0, "weight_decay": 5e-4, "label_smoothing": 0.1, "ema": 0.98}
_MODERN |= {"least_steps": 800, "test_every": None, "test_clips": 5}
_SPATIAL = _ORIGINAL | {"lr": 5e-4, "batch_size": 25, "epochs": 15, "crop": "random", "color_jitter": 0.0}
_SPATIAL |= {"normalize": True}  # with ImageNet's mean and standard deviation
_FLOW = _ORIGINAL | {"lr": 1e-2, "batch_size": 64, "epochs": 50, "segments": 1, "crop": "random"}
_MOTION_POSE = _FLOW | {"normalize": False, "from_keypoints": False}
# For few videos and slow machines, from random weights.
_SKELETON = {"lr": 0.15, "batch_size": 48, "epochs": 20, "dropout": 0.3, "least_steps": 2000, "test_clips": 1}
_SKELETON |= {"weight_decay": 1.7e-4}  # each of three networks learns from a third of a batch
# Temporal heads: a constant rate of Adam.
_TEMPORAL = _ORIGINAL | {"schedule": "constant", "optimizer": "adam", "test_clips": 1, "test_every": None}
_TEMPORAL |= {"epochs": 30, "batch_size": 64, "least_steps": 300}
_INCEPTION = {"lr": 5e-5, "batch_size": 16, "weight_decay": 0.1, "least_steps": 1000}
RECIPES = {
    "spatial": {
        "original": _SPATIAL,
        "modern": _SPATIAL | _MODERN | {"lr": 3e-3, "crop": "resized", "freeze_bn": None},
    },
    "motion_pose": {
        "original": _MOTION_POSE,
        "modern": _MOTION_POSE | _MODERN | {"normalize": True, "from_keypoints": None, "crop": None},
    },
    # Two-Stream Networks' and TSN's flow with the settings of pose flow.
    "flow": {"original": _FLOW, "modern": _FLOW | _MODERN | {"crop": "zoom"}},
    "skeleton": {"modern": _ORIGINAL | _MODERN | _SKELETON},
    # By head; those of TS-LSTM and Temporal-Inception (arXiv 1703.10667).
    "temporal": {
        "ts-lstm": _TEMPORAL | {"arch": "ts-lstm", "lr": 1e-4, "clip_gradients": 5.0},
        "inception": _TEMPORAL | _INCEPTION | {"arch": "inception"},
        "mean": _TEMPORAL | {"arch": "mean", "lr": 1e-3},
    },
}


# ---- the command line ----


def training_parser(stream: str, doc: str, data: str | None, family: Family = IMAGE_NETWORKS) -> ArgumentParser:
    """Parser of one stream's script, whose networks are of `family`; the defaults are those of its modern recipe.

    `doc` is the script's docstring: what it does, and example commands. `data` is where the images lie. Without it the
    stream brings its videos and lists, and `--head` chooses network and recipe.
    """
    recipes = RECIPES[stream]
    default = "modern" if "modern" in recipes else next(iter(recipes))
    text = "Several processes or machines: torchrun --nproc_per_node N SCRIPT with the same options (docs/clusters.md)."
    description = doc.partition("\n")[0] + " Trains, trains on with --resume, or tests with --evaluate."
    parser = ArgumentParser(description=description, epilog=examples(doc, text))
    parser.set_defaults(linear_probe=False, **recipes[default])  # only RGB has that option
    _add_data(parser.group("data"), data)
    _add_model(parser.group("model"), family, named=data is not None)
    training = parser.group("training")
    if data:
        text = "presets of the options: the best that was measured (docs/recipe.md)"
        text += ", or the authors'" * ("original" in recipes)
        training.add_argument("--recipe", choices=recipes, default=default, help=text)
    else:
        text = "network, with its own presets of the options"
        training.add_argument("--head", dest="recipe", choices=recipes, default=default, help=text)
    _add_training(training)
    _add_machine(parser.group("machine"), stream)
    return parser


def _add_data(group: ArgumentGroup, data: str | None) -> None:
    """Where the videos are, and which of them choose the model."""
    add, selection = group.add_argument, group.add_mutually_exclusive_group()
    text = "validation set, for scheduler and model selection: these groups of the training list, such as 23,24,25"
    selection.add_argument("--val-groups", type=group_numbers, metavar="N,N", default=(), help=text)
    text = "resume or test a checkpoint that was trained on other videos than this training list names"
    add("--allow-other-split", action="store_true", help=text)
    if data:
        text = "validation set: a list within --ucf-list, such as vallist01.txt"
        selection.add_argument("--val-list", metavar="FILE", help=text)
        text = "folders of images or keypoints, one per video"
        add("--data", type=Path, metavar="DIR", default=Path(data), help=text)
        add("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
        add("--split", metavar="NN", default="04", help="number of the train and test list")
        add("--class-index", metavar="FILE", default="classInd15.txt", help="class index within --ucf-list")
        add("--skip-broken", action="store_true", help="skip missing and broken videos, and list them at the end")


def _add_model(group: ArgumentGroup, family: Family, named: bool) -> None:
    """The network, unless a recipe names it, where its weights come from, and whether they are only tested."""
    add = group.add_argument
    if family.images:
        text = f"network: {', '.join(ARCHITECTURES)}, or any of timm's by its name"
        add("--arch", metavar="NAME", default=ARCHITECTURES[0], help=text)
        text = "side of the network's input, in pixels"
        add("--image-size", type=whole_number(32), metavar="N", default=224, help=text)
        text = "starting weights: those of ImageNet, which torchvision or timm downloads; random ones; or a file's"
        add("--weights", metavar="imagenet|none|FILE", default="imagenet", help=text)
    else:
        group.set_defaults(image_size=None)
        add("--weights", metavar="none|FILE", default="none", help="starting weights, such as another run's checkpoint")
        if named:
            add("--arch", choices=family.architectures, default=family.architectures[0], help="network")
    if named:
        text = "also write what the classifier sees of the videos of all lists, for temporal_cnn_15.py"
        add("--features", type=Path, metavar="FILE.npz", dest="write_features", help=text)
        text = "evenly spaced positions of a video in --features"
        add("--positions", type=whole_number(1), metavar="K", default=25, help=text)
    text = "train on from this checkpoint, or test it; options that are not given are the checkpoint's"
    add("--resume", type=Path, metavar="CHECKPOINT", help=text)
    add("--evaluate", action="store_true", help="test --resume, write the scores, and stop")


def _add_training(group: ArgumentGroup) -> None:
    """The method; most defaults are the recipe's."""
    add, count, flag = group.add_argument, whole_number(1), argparse.BooleanOptionalAction
    add("--epochs", type=whole_number(0), metavar="N", help="epochs in all, unless --least-steps asks for more")
    text = "without --epochs: as many epochs as make N optimiser steps, where few videos have too few"
    add("--least-steps", type=whole_number(0), metavar="N", help=text)
    add("--start-epoch", type=whole_number(0), metavar="N", help="first epoch, if not the one after --resume's last")
    add("--batch-size", type=count, metavar="N", help="videos per optimiser step, over all processes")
    text = "a batch in N parts, for small memories; the same step if batch norm is frozen (--freeze-bn all)"
    add("--accumulate", type=count, metavar="N", default=1, help=text)
    add("--lr", type=positive, metavar="X", help="learning rate")
    text = "learning rate: half a cosine to 0, a tenth when the validation loss stalls for two tests, or constant"
    add("--schedule", choices=("cosine", "plateau", "constant"), help=text)
    add("--warmup", type=not_negative, metavar="EPOCHS", help="linear rise of the rate at the start (not with plateau)")
    add("--momentum", type=not_negative, metavar="X", default=0.9, help="SGD momentum")
    add("--weight-decay", type=not_negative, metavar="X", help="L2 penalty on all weights")
    add("--dropout", type=not_negative, metavar="P", help="before the classifier (TSN, arXiv 1608.00859)")
    add("--label-smoothing", type=not_negative, metavar="X", help="of the cross-entropy (arXiv 1512.00567)")
    text = "test an exponential moving average of the weights, such as 0.99 (0: the weights themselves)"
    add("--ema", type=not_negative, metavar="DECAY", help=text)
    add("--seed", type=whole_number(0), metavar="N", default=0, help="seed of weights, order and augmentation")
    text = "keep batch norm's statistics: of all layers but the first, as TSN (partial, or without a value), or of all "
    text += "(modern recipe: partial for RGB from starting weights, else none)"
    add("--freeze-bn", nargs="?", choices=("none", "partial", "all"), const="partial", help=text)
    add("--sync-bn", action=flag, default=False, help="batch-norm statistics over all processes (CUDA)")
    text = "test after every N-th epoch, and after the last (modern recipe: 20 tests in a run)"
    add("--test-every", type=count, metavar="N", help=text)
    text = "samples of a video in the tests between epochs; the final test always takes all"
    add("--test-clips", type=count, metavar="N", help=text)


def _add_machine(group: ArgumentGroup, stream: str) -> None:
    """Where to compute and where to write."""
    add = group.add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    text = "processes that read images, per training process; 0 reads in the process itself"
    add("--workers", type=whole_number(0), metavar="N", default=min(cores(), 8), help=text)
    text = "mixed precision (default: on CUDA, and on processors with bfloat16)"
    add("--amp", action=argparse.BooleanOptionalAction, help=text)
    add("--compile", action="store_true", help="compile the network with torch.compile for training")
    text = f"where checkpoints, records and scores are written (default: record/{stream}, or the folder of --resume)"
    add("--record", type=Path, metavar="DIR", help=text)
    add("--overwrite", action="store_true", help="remove the run that --record holds, and start a new one there")


# ---- from the words of a command to a run's options ----


def parse_options(
    parser: ArgumentParser,
    stream: str,
    argv: Sequence[str] | None = None,
    resolve: Callable[[argparse.Namespace], dict] = lambda args: {},
) -> argparse.Namespace:
    """The options of a run: as given, else as the checkpoint of `--resume` keeps them, else as in the recipe.

    `resolve` gives those that depend on the others or on the data. `changed` of the result has those in which the run
    differs from its checkpoint, name → new value. Nothing writes to the result.
    """
    names = [action.dest for action in parser._actions]
    typed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys([*names, *parser._defaults])))
    given = {name for name, value in vars(typed).items() if value is not None}
    saved = saved_options(typed.resume, stream) if typed.resume else {}
    for pair in ({"val_groups", "val_list"}, {"every", "fps"}):  # a run has one of them
        if pair & given:
            saved = {name: value for name, value in saved.items() if name not in pair}
    if "amp" not in given and saved.get("amp"):
        del saved["amp"]  # this device may have none
    parser.set_defaults(**saved)
    parser.set_defaults(**RECIPES[stream].get(typed.recipe, {}))
    if saved or "epochs" in given:
        parser.set_defaults(least_steps=0)
    args = parser.parse_args(argv)
    args = argparse.Namespace(**vars(args) | resolve(args))
    changed = {name: value for name, value in kept_options(args).items() if value != saved.get(name, value)}
    if "arch" in changed:
        raise UserError(f"{args.resume}: its network is a {saved['arch']}; leave --arch or --head out")
    own = Path("record", stream, "" if args.data else args.recipe)  # heads differ as streams do
    record = args.record or (args.resume.parent if args.resume else own)
    return argparse.Namespace(**vars(args) | {"record": record, "changed": changed})


def kept_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that make a run what it is, in the plain values that a checkpoint may hold."""
    values = {name: getattr(args, name) for name in KEPT if hasattr(args, name)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def saved_options(path: Path, stream: str) -> dict[str, Any]:
    """The `kept_options` of the run that wrote a checkpoint; what older ones do not tell was as in the first recipe."""
    checkpoint = load_checkpoint(path)
    saved = checkpoint.get("options")
    if saved is None:  # the original code's, and this code's first versions
        names = ("arch", "image_size", "seed", "split", "val_groups")
        saved = {name: checkpoint[name] for name in names if name in checkpoint}
        groups = (checkpoint.get("optimizer") or {}).get("param_groups") or [{}]
        saved |= {name: groups[0][name] for name in ("lr", "momentum") if name in groups[0]}
    first, recipe = next(iter(RECIPES[stream].items()))
    if "recipe" not in saved:
        saved = recipe | {"recipe": first} | saved
    if "crop" in recipe:  # from before the streams of motion had a choice
        saved.setdefault("crop", "random")
    if isinstance(saved["freeze_bn"], bool):  # from before batch norm could be frozen in part
        saved["freeze_bn"] = "all" if saved["freeze_bn"] else "none"
    for name in ("every", "fps", "short_side"):  # of videos in --data
        if saved.get(name) is None and (checkpoint.get("frames") or {}).get(name):
            saved[name] = checkpoint["frames"][name]
    return {name: value for name, value in saved.items() if name in KEPT and name != "least_steps"}


def group_numbers(text: str) -> tuple[int, ...]:
    """An argparse type: numbers of groups between commas."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of group numbers such as 23,24,25")
    return tuple(sorted({int(number) for number in text.split(",")}))
