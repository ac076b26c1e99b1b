"""Write a trained stream's network as an ONNX file, for programs without torch.

python export_onnx.py record/spatial/model_best.pth.tar spatial.onnx
"""

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from common.atomic import atomic_write
from common.cli import ArgumentParser, UserError, examples, run
from dataloader.skeleton_dataloader import PEOPLE
from network import CPU, Model
from pose.graph_network import moments_of
from pose.skeleton import NUM_PARTS
from prediction.classify import add_class_arguments, load_for_testing
from training.streams import Stream, stream_of, trained_stream

OPSET = 17
TOLERANCE = 1e-4  # of logits up to 1, of larger ones in proportion: what float rounding leaves
KEPT = ("epoch", "options", "frames", "poses", "calibration")  # of a checkpoint
IMAGE_INPUT = (
    "input: float32 (N, in_channels, image_size, image_size); images as RGB (flow: u, v), resized whole, stack_length "
    "following ones stacked in channels; values / 255, then (x - mean) / std per channel of an image unless null."
)
SKELETON_INPUT = (
    "input: float32 (N, people, 11, moments, 18): x, y, score, bone, motion of both, way to the other person's part."
)
OUTPUT = "logits: float32 (N, classes). A video's score is the mean of the logits of its test_positions clips."


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
    if args.file.suffix.lower() != ".onnx":
        raise UserError(f"{args.file}: give a name that ends in .onnx")
    stream = stream_of(args.checkpoint)
    model = load_for_testing(args.checkpoint, stream, args.ucf_list / args.class_index, CPU)
    of_people = PEOPLE, stream.in_channels, moments_of(model.arch), NUM_PARTS
    shape = (stream.in_channels, model.image_size, model.image_size) if model.image_size else of_people
    content = convert(model, stream, shape)
    difference, limit = compare(model, content, shape)
    if not difference <= limit:
        raise UserError(
            f"{args.file}: ONNX Runtime's logits differ by {difference:.1e} from the network's, more than {limit:.1e}; "
            "nothing was written; try other versions of torch and onnxruntime"
        )
    with atomic_write(args.file) as file:
        file.write(content)
    print(
        f"{args.file}: {stream.name} stream, {model.arch}, {len(model.classes)} classes, "
        f"{len(content) / 1e6:.1f} MB; logits differ by at most {difference:.1e} from the checkpoint's"
    )


def convert(model: Model, stream: Stream, shape: tuple[int, ...]) -> bytes:
    """The network as an ONNX file for any number of clips of that shape.

    Its metadata tell, in JSON, of the checkpoint and of what goes in. `mean` and `std` are per channel of an image,
    null where images are not normalised, absent for skeletons.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("writing ONNX files needs onnx, which is not installed: pip install onnx") from None
    file = io.BytesIO()
    with warnings.catch_warnings():
        # About this exporter's age (the new one needs onnxscript), and what `compare` makes sure of.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.network,
            (torch.randn(2, *shape),),
            file,  # type: ignore[arg-type]  # this exporter takes open files
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        )
    metadata = {name: model.checkpoint[name] for name in KEPT if name in model.checkpoint} | {
        "stream": stream.name,
        "arch": model.arch,
        "classes": model.classes,
        "in_channels": stream.in_channels,
        "image_size": model.image_size,
        "stack_length": stream.length,
        "test_positions": stream.test_clips,
    }
    to_input = trained_stream(stream, model.checkpoint.get("options", {})).to_input
    metadata |= getattr(to_input, "keywords", {})  # mean and std
    content = onnx.load_model_from_string(file.getvalue())
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()}
    onnx.helper.set_model_props(content, texts)
    content.doc_string = f"{IMAGE_INPUT if model.image_size else SKELETON_INPUT} {OUTPUT}"
    return content.SerializeToString()


@torch.inference_mode()
def compare(model: Model, content: bytes, shape: tuple[int, ...]) -> tuple[float, float]:
    """The largest difference of the network's and the ONNX file's logits, and what rounding may make of it.

    The input are random clips, one and three. One of the three is 0 throughout, another all but the first channel or
    person: nobody, and one alone.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences, sizes = [], [1.0]
    for clips in (1, 3):
        inputs = torch.randn(clips, *shape, generator=generator)
        inputs[1:2], inputs[2:, 1:] = 0, 0
        expected = model.network(inputs)
        (logits,) = session.run(["logits"], {"input": inputs.numpy()})
        differences.append((torch.from_numpy(logits) - expected).abs().max().item())
        sizes.append(expected.abs().max().item())
    return torch.tensor(differences).max().item(), TOLERANCE * max(sizes)  # torch's max keeps a NaN


if __name__ == "__main__":
    run(main)
