"""Spatial stream: a ResNet on 3 RGB frames per video (Temporal Segment Networks).

python spatial_cnn_15.py
python spatial_cnn_15.py --resume record/spatial/checkpoint.pth.tar
python spatial_cnn_15.py --evaluate \\
    --resume record/spatial/model_best.pth.tar
"""

from argparse import Namespace
from pathlib import Path

from common.cli import ArgumentParser, not_negative, run
from common.records import add_frame_arguments
from dataloader.spatial_dataloader import CROPS
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import SPATIAL


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the modern recipe."""
    parser = training_parser(SPATIAL.name, __doc__, data="data/jpegs_256")
    add = parser.group("training").add_argument
    text = "resized: parts of random size and shape, resized as the test's whole frames are (arXiv 1409.4842, "
    text += "1906.06423); corner: of 4 scales, from corners and the centre (TSN, arXiv 1608.00859); random: of one size"
    add("--crop", choices=CROPS, help=text)
    text = "for few videos: fit the classifier alone, in one epoch, to features of the network as its weights are"
    add("--linear-probe", action="store_true", help=text)
    add("--color-jitter", type=not_negative, metavar="X", help="random brightness, contrast and saturation, 1 ± X")
    text = "show the box of the main people in DIR/VIDEO/keypoints.npz alone, in training and testing alike"
    parser.group("data").add_argument("--keypoints", type=Path, metavar="DIR", help=text)
    add_frame_arguments(parser.add_argument_group("frames, where --data holds videos (default: all)"), jpeg=False)
    return parser


def other_options(args: Namespace) -> dict:
    """Unless told, batch norm keeps the statistics that come with starting weights, as TSN's (arXiv 1608.00859).

    A linear probe is a single epoch (`fit_classifier`).
    """
    if args.linear_probe:
        return {"epochs": 1, "least_steps": 0, "ema": 0.0, "freeze_bn": "all"}
    return {"freeze_bn": args.freeze_bn or ("none" if args.weights == "none" else "partial")}


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), SPATIAL.name, argv, other_options), SPATIAL)


if __name__ == "__main__":
    run(main)
