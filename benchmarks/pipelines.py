"""Both pipelines on synthetic videos as functions to call, and what measures them."""

import itertools
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import plain
from dataloader.frame_index import IndexedVideo
from dataloader.names import Video
from dataloader.sampling import TEST_SAMPLES
from dataloader.video_dataset import EpochBatches, VideoDataset, VideoLoader
from network import Model, build_network
from training.engine import Context, evaluate, train_one_epoch
from training.options import RECIPES
from training.streams import MOTION_POSE, SPATIAL, Stream, trained_stream
from utils import computes_in_half, memory_format


@dataclass(frozen=True)
class Setup:
    """What is run: synthetic videos, the network's input and classes, batches and machine."""

    listed: Sequence[Video]
    device: torch.device
    size: int = 224
    classes: int = 15
    workers: int = 0
    batch_spatial: int = 25
    batch_motion: int = 64
    amp: bool | None = None  # mixed precision of this project's pipeline; None: where the device computes in it

    @property
    def half(self) -> bool:
        """Whether this project's pipeline computes in mixed precision."""
        return computes_in_half(self.device) if self.amp is None else self.amp

    def batch(self, stream: str) -> int:
        """Videos or stacks of one training step, which is also one epoch."""
        return self.batch_spatial if stream == "spatial" else self.batch_motion


class Pipeline(NamedTuple):
    """One way to do a stream: `train()` runs an epoch, `test()` returns scores, `sample(training)` reads one.

    `loaders` are those of training and testing.
    """

    train: Callable[[], object]
    test: Callable[[], dict[str, np.ndarray]]
    sample: Callable[[bool], object]
    network: nn.Module
    loaders: tuple[DataLoader, DataLoader]


def prepare(root: Path, stream: str, setup: Setup) -> tuple[Stream, list[IndexedVideo], list[IndexedVideo], Callable]:
    """(stream, videos to train on, one batch of them, videos to test, sampling function) of videos in `root`."""
    what = SPATIAL if stream == "spatial" else MOTION_POSE
    data = root / ("frames" if stream == "spatial" else "pose_flow")
    method = RECIPES[what.name]["original"] | {"from_keypoints": stream == "keypoints", "keypoints": None}
    good, bad, sample = what.find(Namespace(data=data, image_size=setup.size, **method), setup.listed)
    assert not bad, bad
    return (
        trained_stream(what, method),
        list(itertools.islice(itertools.cycle(good), setup.batch(stream))),
        good,
        sample,
    )


def ours(root: Path, stream: str, setup: Setup) -> Pipeline:
    """This project's pipeline, as `training/run.py` wires it. `stream`: spatial, motion or keypoints."""
    what, training, tested, sample = prepare(root, stream, setup)
    device, cuda = setup.device, setup.device.type == "cuda"
    context = Context(what, device, amp=setup.half)
    torch.manual_seed(0)
    network = build_network("resnet18", what.in_channels, setup.classes).to(device)
    network.to(memory_format=memory_format(device))  # type: ignore[call-overload]  # as torch documents it
    model = Model(network, "resnet18", setup.size, classes=None)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, fused=cuda)
    context.optimizer, context.scaler = optimizer, torch.amp.GradScaler(device.type, enabled=cuda)
    train_set, test_set = VideoDataset(training, sample), VideoDataset(tested, sample)
    loader = VideoLoader(train_set, setup.workers, cuda, batch_sampler=EpochBatches(len(training), len(training), 0))
    test_loader = VideoLoader(test_set, setup.workers, cuda, batch_size=2)
    epochs = itertools.count()

    def read_sample(training: bool) -> torch.Tensor:
        _, sample = (train_set if training else test_set)[(next(epochs), 0) if training else 0]
        return sample.images

    return Pipeline(
        train=lambda: train_one_epoch(network, loader, context, next(epochs)),
        test=lambda: evaluate(model, test_loader, context)["scores"],
        sample=read_sample,
        network=network,
        loaders=(loader, test_loader),
    )


def plain_pipeline(root: Path, stream: str, setup: Setup) -> Pipeline:
    """The plain pipeline on the same videos."""
    what, training, tested, _ = prepare(root, stream, setup)
    torch.manual_seed(0)
    network = build_network("resnet18", what.in_channels, setup.classes).to(setup.device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    loader, test_loader = plain.loaders(training, tested, what.length, len(training), setup.workers, setup.size)
    return Pipeline(
        train=lambda: plain.train(network, loader, optimizer, setup.device),
        test=lambda: plain.test(network, test_loader, setup.device),
        sample=lambda train: loader.dataset[0] if train else [test_loader.dataset[i] for i in range(TEST_SAMPLES)],
        network=network,
        loaders=(loader, test_loader),
    )


def measure(
    functions: dict[str, Callable], repeat: int, device: torch.device, loops: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, `repeat` times each and in turns, after one call of each to warm up.

    A figure is the mean of `loops` calls on end.
    """
    seconds = {name: [] for name in functions}
    for i in range(repeat + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            for _ in range(loops if i else 1):
                function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                seconds[name].append((time.perf_counter() - started) / loops)
    return seconds


def print_table(title: str, columns: list[str], rows: list[list]) -> None:
    """Print a Markdown table; floats with three significant digits."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{' --- |' + ' ---: |' * (len(columns) - 1)}")
    for row in rows:
        cells = [f"{cell:#.3g}".rstrip(".") if isinstance(cell, float) else str(cell) for cell in row]
        print(f"| {' | '.join(cells)} |", flush=True)


def peak_memory() -> float:
    """Largest resident memory that this process has had, in MB."""
    try:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
