"""Write a trained stream's network as an ONNX file, which predict.py takes in place of the checkpoint.

python export_onnx.py record/spatial/model_best.pth.tar spatial.onnx
python predict.py clip.avi --spatial spatial.onnx
"""

from collections.abc import Sequence
from pathlib import Path

from common.cli import ArgumentParser, UserError, examples, run
from network import CPU
from prediction.models import add_class_arguments, load_for_testing
from prediction.onnx_model import is_onnx, write_onnx
from training.streams import stream_of


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Write a stream's network as an ONNX file, with batch norm folded into the convolutions and any "
        "batch size. It is compared with the network in ONNX Runtime before it appears.",
        epilog=examples(__doc__, "The file's metadata tell, in JSON, what goes in and which classes come out."),
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="written by a stream's training script")
    parser.add_argument("file", type=Path, metavar="FILE.onnx", help="file to write")
    add_class_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file and print how well it agrees with the network."""
    args = get_args_parser().parse_args(argv)
    if not is_onnx(args.file):
        raise UserError(f"{args.file}: give a name that ends in .onnx, by which predict.py knows such files")
    if args.file.is_dir():
        raise UserError(f"{args.file}: is a folder; give the name of a file to write")
    stream = stream_of(args.checkpoint)
    model = load_for_testing(args.checkpoint, stream, args.ucf_list / args.class_index, CPU)
    difference = write_onnx(args.file, model, stream)
    print(
        f"{args.file}: {stream.name} stream, {model.arch}, {len(model.classes)} classes, "
        f"{args.file.stat().st_size / 1e6:.1f} MB; logits differ by at most {difference:.1e} from the checkpoint's"
    )


if __name__ == "__main__":
    run(main)
