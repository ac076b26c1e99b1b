"""Images a second of a test by torch and by ONNX Runtime, of the networks that export_onnx.py writes. Prints a table.

python -m benchmarks.onnx --threads 1 2
"""

import statistics
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.pipelines import measure, print_table
from common.cli import ArgumentParser, run, whole_number
from dataloader.sampling import TEST_SAMPLES
from export_onnx import write_onnx
from network import ARCHITECTURES, CPU, Model, build_network, for_testing
from training.streams import FLOW, MOTION_POSE, SPATIAL, Stream
from utils import memory_format


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    number = whole_number(1)
    parser.add_argument("--repeat", type=number, default=5, help="measurements of each figure")
    parser.add_argument("--threads", type=number, nargs="+", default=(1, 2), help="processor threads")
    parser.add_argument("--size", type=whole_number(32), default=224, help="side of the network's input")
    parser.add_argument("--batch", type=number, default=TEST_SAMPLES, help="clips that go through it together")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18", help="network")
    return parser


def rates(stream: Stream, path: Path, args: Namespace, threads: int) -> list:
    """A row of the table: clips a second of torch and ONNX Runtime, on the input as a test makes it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = for_testing(build_network(args.arch, stream.in_channels, 15))
    model = Model(network, args.arch, args.size, list(map(str, range(15))))
    write_onnx(path, model, stream)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = torch.randn(args.batch, stream.in_channels, args.size, args.size)
    inputs = inputs.contiguous(memory_format=memory_format(CPU))
    with torch.inference_mode():
        functions = {
            "torch": lambda: network(inputs),
            "onnx": lambda: torch.from_numpy(session.run(["logits"], {"input": inputs.contiguous().numpy()})[0]),
        }
        seconds = measure(functions, args.repeat, CPU)
        difference = (network(inputs) - functions["onnx"]()).abs().max().item()
    ratios = np.divide(seconds["torch"], seconds["onnx"])
    medians = [args.batch / statistics.median(seconds[name]) for name in functions]
    faster = f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})"
    return [stream.name, stream.in_channels, threads, *medians, faster, f"{difference:.0e}"]


def main(argv: list[str] | None = None) -> None:
    """Measure every stream with each number of threads, and print the table."""
    args = get_args_parser().parse_args(argv)
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {args.arch}, batches of {args.batch}, "
        f"{args.size}x{args.size}, float32, median of {args.repeat}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stream in (SPATIAL, FLOW, MOTION_POSE):
            rows += [rates(stream, Path(folder, "network.onnx"), args, threads) for threads in args.threads]
    columns = ["stream", "channels", "threads", "torch", "ONNX Runtime", "times faster", "difference"]
    print_table("Clips a second on the processor", columns, rows)


if __name__ == "__main__":
    run(main)
