"""How time and memory grow with videos, their length, workers, classes and epochs. Prints tables, draws a plot."""

import contextlib
import gc
import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.data import write_videos
from benchmarks.pipelines import Setup, ours, print_table
from common.cli import ArgumentParser, run, whole_number
from common.frames import FRAME_NAME
from dataloader.frame_index import index_frames
from dataloader.names import Video
from dataloader.spatial_dataloader import spatial_sample
from dataloader.video_dataset import VideoDataset, end_workers, testing_loader
from utils import pick_device

FULL = {
    "listed": (100, 1000, 13320),
    "tested": (2, 4, 8, 16),
    "lengths": (15, 30, 60, 120, 240, 480),
    "worker_counts": (0, 1, 2, 4),
    "class_counts": (2, 15, 101, 400),
}
QUICK = {"listed": (2, 3), "tested": (1, 2), "lengths": (10, 12), "worker_counts": (0, 1), "class_counts": (2, 4)}
STREAMS = ("spatial", "motion")


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=whole_number(1), default=3, help="measurements of each figure")
    parser.add_argument("--size", type=whole_number(32), default=224, help="side of the network's input")
    parser.add_argument("--epochs", type=whole_number(1), default=6, help="epochs over which memory is watched")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw the figures into this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    return parser


def seconds_of(function: Callable[[], object], repeat: int) -> float:
    """Median seconds of a call, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    gc.collect()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def small(args: Namespace, listed: list[Video], **changed: Any) -> Setup:
    """Small batches of these videos."""
    return Setup(listed, args.device, args.size, **{"batch_spatial": 4, "batch_motion": 8} | changed)


def by_listed_videos(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds to find and count the listed videos' frames, first and again, and the memory they take."""
    image = next(iter((root / "frames").rglob("*.jpg")))
    rows, series = [], {"first": [], "again": []}
    for count in args.listed:
        folder = root / f"listed{count}"
        videos = []
        for number in range(count):
            videos.append(Video(f"L_g{number:05d}_c01", 0, "L", f"L/v_L_g{number:05d}_c01.avi"))
            below = folder / f"v_{videos[-1].name}"
            below.mkdir(parents=True)
            for frame in (1, 2):
                os.link(image, below / FRAME_NAME.format(frame))
        time.sleep(2.1 * (not args.quick))  # counts of folders that changed within 2 s are not cached
        before, started = resident(), time.perf_counter()
        good, _ = index_frames(folder, videos)
        first = time.perf_counter() - started
        dataset = VideoDataset(good, lambda video, generator: spatial_sample(video, generator, args.size))
        next(iter(testing_loader(dataset, 0, False)))
        grown = resident() - before
        again = seconds_of(lambda folder=folder, videos=videos: index_frames(folder, videos), args.repeat)
        rows.append([f"{count:,}", first, again, f"{grown:.1f}"])
        series["first"].append((count, first))
        series["again"].append((count, again))
    print_table("Finding the listed videos", ["videos", "seconds, first", "seconds, again", "MB more"], rows)
    return series


def by_tested_videos(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a test of so many videos."""
    listed = write_videos(root / "tested", 2, 40)
    series = {stream: [] for stream in STREAMS}
    for stream in STREAMS:
        for count in args.tested:
            videos = [listed[i % 2] for i in range(count)]
            test = ours(root / "tested", stream, small(args, videos)).test
            series[stream].append((count, seconds_of(test, args.repeat)))
    rows = [[x, *(dict(series[stream])[x] for stream in STREAMS)] for x in args.tested]
    print_table("Seconds to test videos", ["videos", *STREAMS], rows)
    return series


def by_length(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds to read a sample of a video of so many frames, one thread."""
    series = {f"{stream} {what}": [] for stream in STREAMS for what in ("training", "test")}
    for length in args.lengths:
        listed = write_videos(root / f"length{length}", 1, length)
        for stream in STREAMS:
            sample = ours(root / f"length{length}", stream, small(args, listed)).sample
            for what in ("training", "test"):
                seconds = seconds_of(lambda sample=sample, what=what: sample(what == "training"), args.repeat + 2)
                series[f"{stream} {what}"].append((length, 1000 * seconds))
    rows = [[x, *(dict(points)[x] for points in series.values())] for x in args.lengths]
    print_table("Milliseconds to read one sample", ["frames of the video", *series], rows)
    return series


def by_workers(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Test samples per second that arrive from so many workers, without a network."""
    listed = write_videos(root / "workers", 2, 60)
    count = 4 if args.quick else 60
    series = {stream: [] for stream in STREAMS}
    for stream in STREAMS:
        for workers in args.worker_counts:
            setup = small(args, [listed[i % 2] for i in range(count)], workers=workers)
            loader = ours(root / "workers", stream, setup).loaders[1]
            rate = count / seconds_of(lambda loader=loader: sum(1 for _ in loader), args.repeat)
            series[stream].append((workers, rate))
            end_workers()
    rows = [[x, *(dict(series[stream])[x] for stream in STREAMS)] for x in args.worker_counts]
    print_table("Videos per second read for the test", ["workers", *STREAMS], rows)
    return series


def by_classes(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a training step and of a test, by the number of classes."""
    listed = write_videos(root / "classes", 2, 30, classes=2)
    series = {"training step": [], "test of 2 videos": []}
    for count in args.class_counts:
        pipeline = ours(root / "classes", "spatial", small(args, listed, classes=count))
        series["training step"].append((count, seconds_of(pipeline.train, args.repeat)))
        series["test of 2 videos"].append((count, seconds_of(pipeline.test, args.repeat)))
    rows = [[x, *(dict(points)[x] for points in series.values())] for x in args.class_counts]
    print_table("Seconds, spatial stream", ["classes", *series], rows)
    return series


def by_epochs(root: Path, args: Namespace) -> dict[str, list[tuple[float, float]]]:
    """Resident memory after each epoch of training and testing, in MB."""
    listed = write_videos(root / "epochs", 4, 40)
    series = {}
    for stream in STREAMS:
        pipeline = ours(root / "epochs", stream, small(args, listed, workers=args.worker_counts[1]))
        series[stream] = []
        for epoch in range(args.epochs):
            pipeline.train()
            pipeline.test()
            series[stream].append((epoch + 1, resident()))
        end_workers()
    rows = [[x, *(f"{dict(series[stream])[x]:.0f}" for stream in STREAMS)] for x in range(1, args.epochs + 1)]
    print_table("Resident memory in MB after each epoch and its test", ["epochs", *STREAMS], rows)
    return series


PANELS = {
    by_listed_videos: ("listed videos", "s to find them", "log"),
    by_tested_videos: ("videos tested", "s", "linear"),
    by_length: ("frames of the video", "ms per sample", "log"),
    by_workers: ("workers", "videos/s read for the test", "linear"),
    by_classes: ("classes", "s", "log"),
    by_epochs: ("epochs", "resident MB", "linear"),
}


def draw(results: dict[Callable, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    """One panel for each measurement."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axes, (function, series) in zip(figure.subplots(2, 3).flat, results.items(), strict=True):
        label, unit, scale = PANELS[function]
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=name)
        axes.set(xlabel=label, ylabel=unit, xscale=scale, ylim=(0, None))
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, draw the plot."""
    args = get_args_parser().parse_args(argv)
    vars(args).update(QUICK if args.quick else FULL)
    if args.quick:
        args.size, args.epochs, args.repeat = 32, 2, 1
        torch.set_num_threads(1)
    args.device = pick_device(args.device)
    print(
        f"torch {torch.__version__}, device {args.device.type}, {torch.get_num_threads()} threads, "
        f"images of {args.size}×{args.size}, median of {args.repeat}"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        ending.callback(end_workers)
        root = Path(folder)
        write_videos(root, 1, 10)
        results = {function: function(root, args) for function in PANELS}
    if args.out:
        draw(results, args.out)
        print(f"\nplot in {args.out}")


if __name__ == "__main__":
    run(main)
