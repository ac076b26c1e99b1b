"""Flow stream: a ResNet on the optical flow of 10 following frames, 20 channels (Two-Stream Networks).

python motion_cnn_15.py
python motion_cnn_15.py --resume record/flow/checkpoint.pth.tar
python motion_cnn_15.py --evaluate \\
    --resume record/flow/model_best.pth.tar
"""

from argparse import Namespace

from common.cli import ArgumentParser, run, whole_number
from dataloader.flow_dataloader import method_of
from dataloader.images import SQUARE_CROPS
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import FLOW


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the modern recipe."""
    parser = training_parser(FLOW.name, __doc__, data="data/flow")
    text = "stacks of a video in training, with consensus (TSN)"
    add = parser.group("training").add_argument
    add("--segments", type=whole_number(1), metavar="N", help=text)
    text = "zoom: in training up to 1.2 times smaller or larger than in the test; random: always larger, as TSN"
    add("--crop", choices=SQUARE_CROPS, help=text)
    parser.set_defaults(flow_method=None)
    return parser


def data_options(args: Namespace) -> dict:
    """What method made the flow in --data, for prediction; if no record tells, as in the checkpoint."""
    return {"flow_method": method_of(args.data) or args.flow_method}


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), FLOW.name, argv, data_options), FLOW)


if __name__ == "__main__":
    run(main)
