"""Flow stream: a ResNet on the optical flow of 10 following frames, 20 channels (Two-Stream Networks).

python motion_cnn_15.py
python motion_cnn_15.py --resume record/flow/checkpoint.pth.tar
python motion_cnn_15.py --evaluate \\
    --resume record/flow/model_best.pth.tar
"""

import sys

from common.cli import ArgumentParser, run, whole_number
from dataloader.flow_dataloader import method_of
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import FLOW


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the modern recipe."""
    parser = training_parser(FLOW.name, __doc__, data="data/flow")
    text = "stacks of a video in training, with consensus (TSN)"
    parser.group("training").add_argument("--segments", type=whole_number(1), metavar="N", help=text)
    parser.set_defaults(flow_method=None)  # that of --data, which the checkpoint keeps
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    args = parse_options(get_args_parser(), FLOW.name, argv)
    found = method_of(args.data)
    if found and args.flow_method not in (None, found):
        made = f"its flow was made by {found}, that of {args.resume} by {args.flow_method}"
        print(f"{args.data}: {made}", file=sys.stderr)
    args.flow_method = found or args.flow_method
    return run_stream(args, FLOW)


if __name__ == "__main__":
    run(main)
