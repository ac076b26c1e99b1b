"""Compare this project with the plain pipeline on synthetic videos: samples, training, testing, memory."""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.data import mean_bytes, write_videos
from benchmarks.pipelines import Pipeline, Setup, measure, ours, peak_memory, plain_pipeline, print_table
from common.cli import ArgumentParser, UserError, run, whole_number
from common.frames import list_frames
from dataloader.images import read_image
from dataloader.sampling import TEST_SAMPLES
from dataloader.video_dataset import end_workers
from network import build_network, for_testing
from training.engine import TEST_CLIPS
from utils import pick_device

QUICK = {"repeat": 1, "videos": 1, "frames": 12, "size": 32, "batch_spatial": 2, "batch_motion": 2, "workers": 0}


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=whole_number(1), default=5, help="measurements of each figure")
    parser.add_argument("--videos", type=whole_number(1), default=8, help="videos to test")
    parser.add_argument("--frames", type=whole_number(1), default=180, help="frames of each video")
    parser.add_argument("--size", type=whole_number(32), default=224, help="side of the network's input")
    parser.add_argument("--batch-spatial", type=whole_number(1), default=25, help="videos per training step")
    parser.add_argument("--batch-motion", type=whole_number(1), default=64, help="stacks per training step")
    parser.add_argument(
        "--workers", type=whole_number(0), default=min(os.cpu_count() or 1, 8), help="processes that read images"
    )
    parser.add_argument("--threads", type=whole_number(1), help="processor threads of torch (default: torch's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, help="mixed precision of this project (default: as in training)"
    )
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure peak memory, each in a process of its own",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    return parser


def ratio(seconds: dict[str, list[float]], slow: str = "plain", fast: str = "this") -> str:
    """How many times faster `fast` is: the median over the rounds, and the range."""
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def reading(folder: Path, images: int) -> Callable:
    """A function that does nothing but read and decode the first `images` of a folder."""

    def read():
        for path in list_frames(folder)[:images]:
            read_image(path)

    return read


def sample_table(root: Path, setup: Setup, repeat: int, loops: int) -> None:
    """Milliseconds that one sample takes, single thread and no worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    single = replace(setup, workers=0, device=torch.device("cpu"))
    rows = []
    for stream, folder in (("spatial", "frames"), ("motion", "pose_flow")):
        pipelines = {"plain": plain_pipeline(root, stream, single), "this": ours(root, stream, single)}
        if stream == "motion":
            pipelines["keypoints"] = ours(root, "keypoints", single)
        first = next(path for path in sorted((root / folder).iterdir()) if path.is_dir())
        distinct = len(pipelines["this"].sample(False))
        for train, title, images in ((True, "training", 3 if stream == "spatial" else 10), (False, "test", distinct)):
            functions = {name: lambda p=p, train=train: p.sample(train) for name, p in pipelines.items()}
            functions["reading"] = reading(first, images)
            seconds = measure(functions, repeat, single.device, loops if train else -(-loops // 10))
            ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
            rows.append(
                [
                    f"{stream} {title} sample ({images} images read)",
                    ms["plain"],
                    ms["this"],
                    ratio(seconds),
                    ms["reading"],
                    ms.get("keypoints", "–"),
                ]
            )
    torch.set_num_threads(threads)
    print_table(
        "Milliseconds per sample, one thread",
        ["sample", "plain", "this", "times faster", "reading alone", "drawn from keypoints"],
        rows,
    )


def networks_alone(pipeline: Pipeline, what: str, clips: int, setup: Setup) -> dict[str, Callable]:
    """Functions that train or test on a batch that is in the device's memory, as plain and as this project does."""
    channels: Any = pipeline.network.conv1.in_channels
    batch = torch.rand(clips, channels, setup.size, setup.size, device=setup.device)
    plain_network = build_network("resnet18", channels, setup.classes).to(setup.device)
    last = batch.contiguous(memory_format=torch.channels_last)
    if what == "training":

        def step(network: torch.nn.Module, images: torch.Tensor):
            network.train().zero_grad()
            with torch.autocast(setup.device.type, enabled=setup.half and images is last):
                logits = network(images)
            F.cross_entropy(logits.float(), torch.zeros(clips, dtype=torch.int64, device=setup.device)).backward()

        return {"NCHW": lambda: step(plain_network, batch), "this": lambda: step(pipeline.network, last)}
    tester = for_testing(pipeline.network)
    plain_network.eval()

    @torch.inference_mode()
    def forward(network: torch.nn.Module, parts: Sequence[torch.Tensor]):
        with torch.autocast(setup.device.type, enabled=setup.half and network is tester):
            return [network(part) for part in parts]

    return {
        "NCHW": lambda: forward(plain_network, batch.split(1)),
        "this": lambda: forward(tester, last.split(TEST_CLIPS[setup.device.type][1])),
    }


def rate_table(root: Path, setup: Setup, repeat: int) -> None:
    """Videos per second in training and testing, with the network alone beside."""
    rows, notes = [], []
    for stream in ("spatial", "motion"):
        pipelines = {"plain": plain_pipeline(root, stream, setup), "this": ours(root, stream, setup)}
        if stream == "motion":
            pipelines["keypoints"] = ours(root, "keypoints", setup)
        batch = setup.batch(stream)
        for what, videos, clips in (
            ("training", batch, batch * (3 if stream == "spatial" else 1)),
            ("testing", len(setup.listed), len(setup.listed) * TEST_SAMPLES),
        ):
            functions = {name: p.train if what == "training" else p.test for name, p in pipelines.items()}
            alone = networks_alone(pipelines["this"], what, clips, setup)
            functions |= {f"network {name}": function for name, function in alone.items()}
            seconds = measure(functions, repeat, setup.device)
            rate = {name: videos / statistics.median(values) for name, values in seconds.items()}
            rows.append(
                [
                    f"{stream} {what}",
                    rate["plain"],
                    rate["this"],
                    ratio(seconds),
                    rate["network NCHW"],
                    rate["network this"],
                    rate.get("keypoints", "–"),
                ]
            )
        pipelines["plain"].network.load_state_dict(pipelines["this"].network.state_dict())
        scores, expected = pipelines["this"].test(), pipelines["plain"].test()
        difference = max(float(np.abs(scores[name] - expected[name]).max()) for name in expected)
        largest = max(float(np.abs(score).max()) for score in expected.values())
        notes.append(f"{stream} {difference:.1e} (largest score {largest:.2f})")
        end_workers()
    print_table(
        "Videos (motion training: stacks) per second",
        ["", "plain", "this", "times faster", "network alone, NCHW", "network alone, as here", "drawn from keypoints"],
        rows,
    )
    print(f"\nLargest difference of the two pipelines' scores: {', '.join(notes)}")


def memory_of(root: Path, kind: str, stream: str, what: str, setup: Setup) -> float:
    """Peak memory in MB of this process after one epoch of training or one test."""
    pipeline = (plain_pipeline if kind == "plain" else ours)(root, stream, setup)
    (pipeline.train if what == "training" else pipeline.test)()
    end_workers()
    return peak_memory()


def memory_table(root: Path, setup: Setup) -> None:
    """Peak memory of training and testing, each in a fresh process."""
    rows = []
    for stream, what in itertools.product(("spatial", "motion"), ("training", "testing")):
        peaks = []
        for kind in ("plain", "this"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                peaks.append(pool.submit(memory_of, root, kind, stream, what, setup).result())
        rows.append([f"{stream} {what}", *(f"{peak:.0f}" for peak in peaks)])
    print_table("Peak memory in MB of the main process", ["", "plain", "this"], rows)


def main(argv: list[str] | None = None) -> None:
    """Make the videos, measure, and print the tables."""
    args = get_args_parser().parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
        torch.set_num_threads(1)
    if args.frames < 10:
        raise UserError(f"--frames {args.frames}: a stack has 10 images; give at least 10")
    args.device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        listed = write_videos(root, args.videos, args.frames)
        setup = Setup(
            listed,
            args.device,
            args.size,
            workers=args.workers,
            batch_spatial=args.batch_spatial,
            batch_motion=args.batch_motion,
            amp=args.amp,
        )
        print(
            f"torch {torch.__version__}, device {where}, {torch.get_num_threads()} threads, {args.workers} workers, "
            f"{'mixed precision' if setup.half else 'float32'}, "
            f"{args.videos} videos of {args.frames} frames, frames of {mean_bytes(root / 'frames') / 1000:.1f} kB, "
            f"pose images of {mean_bytes(root / 'pose_flow') / 1000:.1f} kB, median of {args.repeat}"
        )
        sample_table(root, setup, args.repeat, loops=1 if args.quick else 20)
        rate_table(root, setup, args.repeat)
        if args.memory:
            memory_table(root, setup)


if __name__ == "__main__":
    run(main)
