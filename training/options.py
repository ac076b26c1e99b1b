"""The command line that both training scripts share."""

import argparse
import os
import re
from pathlib import Path

from common.cli import ArgumentParser, positive, whole_number
from network import ARCHITECTURES


def training_parser(stream: str, data: str, lr: float, batch_size: int, epochs: int) -> ArgumentParser:
    """Parser of one stream's script; the defaults are those of the method."""
    parser = ArgumentParser(
        description=f"Train or test the {stream} stream.",
        epilog="Several processes or machines: torchrun --nproc_per_node N SCRIPT with the same options.",
    )
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=Path, metavar="DIR", default=Path(data), help="folders of images, one per video")
    group.add_argument("--ucf-list", type=Path, metavar="DIR", default=Path("UCF_list"), help="split lists")
    group.add_argument("--split", metavar="NN", default="04", help="number of the train and test list")
    group.add_argument(
        "--class-index",
        metavar="FILE",
        default="classInd15.txt",
        help="class index within --ucf-list (classInd.txt: all 101 classes)",
    )
    group.add_argument(
        "--val-groups",
        type=group_numbers,
        metavar="N,N",
        default=(),
        help="hold these groups of the training list out: the scheduler and the best model look "
        "at them, and the test list is scored once, at the end",
    )
    group.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out videos that are missing or cannot be read, and list them at the end",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--arch", choices=ARCHITECTURES, help="(default: resnet18, or that of --resume)")
    model.add_argument("--weights", metavar="imagenet|none|FILE", default="imagenet", help="starting weights")
    model.add_argument(
        "--image-size",
        type=whole_number(32),
        metavar="N",
        help="side of the network's input (default: 224, or that of --resume)",
    )
    model.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="train on from this checkpoint, or test it")
    model.add_argument("--evaluate", action="store_true", help="test --resume, write the scores, and stop")

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=whole_number(0), metavar="N", default=epochs, help="epochs in all")
    training.add_argument(
        "--start-epoch",
        type=whole_number(0),
        metavar="N",
        help="first epoch (default: 0, or the one after --resume's last)",
    )
    training.add_argument(
        "--batch-size",
        type=whole_number(1),
        metavar="N",
        default=batch_size,
        help="videos per optimiser step, over all processes",
    )
    training.add_argument(
        "--accumulate",
        type=whole_number(1),
        metavar="N",
        default=1,
        help="run each batch in N parts that sum up to the same gradient, for small memories",
    )
    training.add_argument("--lr", type=positive, metavar="X", help=f"(default: {lr}, or that of --resume)")
    training.add_argument(
        "--lr-patience",
        type=whole_number(0),
        metavar="N",
        default=1,
        help="epochs without a lower loss on the watched list before the learning rate is cut to a tenth",
    )
    training.add_argument("--momentum", type=float, metavar="X", default=0.9, help="of the SGD")
    training.add_argument("--seed", type=whole_number(0), metavar="N", help="(default: 0, or that of --resume)")
    training.add_argument("--freeze-bn", action="store_true", help="keep batch norm's statistics as they are")
    training.add_argument("--sync-bn", action="store_true", help="batch norm over all processes (CUDA)")
    training.set_defaults(default_lr=lr)

    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    machine.add_argument(
        "--workers",
        type=whole_number(0),
        metavar="N",
        default=min(os.cpu_count() or 1, 8),
        help="processes that read images, per training process; 0 reads in the process itself",
    )
    machine.add_argument("--amp", action=argparse.BooleanOptionalAction, help="mixed precision (default: on CUDA)")
    machine.add_argument("--compile", action="store_true", help="compile the network with torch.compile for training")
    machine.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        default=Path("record", stream),
        help="where checkpoints, records and scores are written",
    )
    return parser


def group_numbers(text: str) -> tuple[int, ...]:
    """An argparse type: group numbers between commas, such as 23,24,25."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of group numbers such as 23,24,25")
    return tuple(sorted({int(number) for number in text.split(",")}))
