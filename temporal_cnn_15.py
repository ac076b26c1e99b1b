"""Temporal heads on saved features of the streams: TS-LSTM, Temporal-Inception, and the mean to compare with.

python spatial_cnn_15.py --evaluate --features spatial.npz \\
    --resume record/spatial/model_best.pth.tar
python motion_cnn_15.py --evaluate --features flow.npz \\
    --resume record/flow/model_best.pth.tar
python temporal_cnn_15.py --features spatial.npz flow.npz --head ts-lstm
"""

from pathlib import Path

from common.cli import ArgumentParser, run
from dataloader.features import join_features
from training.options import parse_options, training_parser
from training.run import run_stream
from training.temporal import TEMPORAL_HEADS, temporal_stream


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the paper's TS-LSTM."""
    parser = training_parser("temporal", __doc__, data=None, family=TEMPORAL_HEADS)
    text = "features of one split, which --evaluate --features of the streams wrote; they stand side by side"
    parser.group("data").add_argument("--features", nargs="+", type=Path, metavar="FILE.npz", required=True, help=text)
    parser.set_defaults(workers=0, data=None, write_features=None, skip_broken=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    args = parse_options(get_args_parser(), "temporal", argv)
    features = join_features(args.features)
    split = features.split(held_out=not args.val_groups)
    return run_stream(args, temporal_stream(features, " ".join(map(str, args.features))), split)


if __name__ == "__main__":
    run(main)
