"""Skeleton stream: ST-GCN++ on the coordinates of the main people's parts; for few videos and slow machines.

python skeleton_gcn_15.py                                                      # train
python skeleton_gcn_15.py --resume record/skeleton/checkpoint.pth.tar            # train on
python skeleton_gcn_15.py --resume record/skeleton/model_best.pth.tar --evaluate # test
"""

from common.cli import ArgumentParser, run
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import SKELETON


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the stream's recipe."""
    parser = training_parser(SKELETON.name, data="data/pose_flow", family=SKELETON.family)
    parser.set_defaults(workers=0)  # the keypoints are in memory, and a sample takes less than handing it over
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), SKELETON.name, argv), SKELETON)


if __name__ == "__main__":
    run(main)
