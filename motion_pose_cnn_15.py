"""Motion stream: a ResNet on stacks of 10 pose-flow images, 30 channels.

python motion_pose_cnn_15.py                                                          # train
python motion_pose_cnn_15.py --resume record/motion_pose/checkpoint.pth.tar            # train on
python motion_pose_cnn_15.py --resume record/motion_pose/model_best.pth.tar --evaluate # test
"""

import argparse

from common.cli import ArgumentParser, run
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import MOTION_POSE


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are the method's."""
    parser = training_parser("motion_pose", data="data/pose_flow", lr=1e-2, batch_size=64, epochs=50)
    parser.add_argument(
        "--from-keypoints",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="draw the pose images from the keypoints.npz files in --data, which are held in memory; augments by "
        "moving the body, and mirrors it",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), argv), MOTION_POSE)


if __name__ == "__main__":
    run(main)
