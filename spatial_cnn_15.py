"""Spatial stream: a ResNet on 3 RGB frames per video (Temporal Segment Networks).

python spatial_cnn_15.py                                                      # train
python spatial_cnn_15.py --resume record/spatial/checkpoint.pth.tar            # train on
python spatial_cnn_15.py --resume record/spatial/model_best.pth.tar --evaluate # test
"""

import argparse

from common.cli import ArgumentParser, not_negative, run
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import SPATIAL


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the modern recipe."""
    parser = training_parser("spatial", data="data/jpegs_256")
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add("--scale-jitter", action=flag, help="corner and centre crops of 4 scales (TSN) in place of random crops")
    add("--color-jitter", type=not_negative, metavar="X", help="random brightness, contrast and saturation, 1 ± X")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), SPATIAL.name, argv), SPATIAL)


if __name__ == "__main__":
    run(main)
