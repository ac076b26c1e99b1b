"""Spatial stream: a ResNet on 3 RGB frames per video (Temporal Segment Networks).

python spatial_cnn_15.py                                                      # train
python spatial_cnn_15.py --resume record/spatial/checkpoint.pth.tar            # train on
python spatial_cnn_15.py --resume record/spatial/model_best.pth.tar --evaluate # test
"""

from common.cli import ArgumentParser, run
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import SPATIAL


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are the method's."""
    return training_parser("spatial", data="data/jpegs_256", lr=5e-4, batch_size=25, epochs=15)


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), argv), SPATIAL)


if __name__ == "__main__":
    run(main)
