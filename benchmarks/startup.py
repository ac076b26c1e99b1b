"""Time and memory until a training script has its first batch, for data sets of several sizes. Prints a table.

    python -m benchmarks.startup --tmp /tmp

Lists and folders of frames are made below --tmp (hard links to one JPEG; 300,000 videos take 1.3 GB and a few
minutes) and removed afterwards. Each row is the best of --repeat fresh processes for the times, the worst for memory.
"""

import itertools
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Nothing large is imported here: a child's peak memory would include that of the process it was forked from.
from common.cli import ArgumentParser, UserError, run
from common.frames import FRAME_NAME

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = ROOT.parent / "shared" / "ucf101" / "frame_counts.csv"
UCF101 = 13_320
MAX_LINKS = 60_000  # of one file; ext4 allows 65,000
SHORT = 3  # frames per video of data sets larger than UCF101
BATCH = 25
EPOCHS = 3


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tmp", type=Path, metavar="DIR", help="existing folder to make the data sets in")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", default=[100, UCF101, 300_000], help="numbers of listed videos"
    )
    parser.add_argument("--repeat", type=int, default=3, help="processes per row")
    parser.add_argument("--batches", type=int, default=20, help="batches of images read per epoch")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--measure", type=Path, metavar="DATA", help="measure one data set in this process")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Make, measure and remove each data set."""
    args = get_args_parser().parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args.batches, args.workers)))
        return
    if args.tmp is None or not args.tmp.is_dir():
        raise UserError(f"--tmp {args.tmp}: give an existing folder to make the data sets in")
    rows, load = [], os.getloadavg()[0]
    for size in args.sizes:
        with tempfile.TemporaryDirectory(prefix=f"startup-{size}-", dir=args.tmp) as folder:
            frames = make_data(Path(folder), size)
            results = [measure_afresh(Path(folder), args) for _ in range(args.repeat)]
            rows.append({"videos": size, "frames": frames, **best_of(results)})
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before; Python {platform.python_version()}\n")
    print_table(rows)
    print_limits(rows)


# ---- synthetic data sets ----


def make_data(root: Path, size: int) -> int:
    """Lists, and a folder of frames for each of `size` videos; returns the number of frames.

    UCF101's own lists and, where ../shared has them, lengths are used for 13,320 videos.
    """
    known = read_lengths()
    if size == UCF101 and known:
        shutil.copytree(ROOT / "UCF_list", root / "lists", ignore=shutil.ignore_patterns("*.py"))
        videos = known
    else:
        write_lists(root / "lists", size)
        counts = [count for _, count in known] if size <= UCF101 and known else [SHORT]
        videos = zip(names(size), itertools.cycle(counts), strict=False)
    jpeg, links, total = None, MAX_LINKS, 0
    for name, count in videos:
        folder = root / "frames" / name
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            if links == MAX_LINKS:
                jpeg, links = write_jpeg(root / f"frame-{total}.jpg"), 0
            os.link(jpeg, folder / FRAME_NAME.format(number))
            links, total = links + 1, total + 1
    return total


def read_lengths() -> list[tuple[str, int]]:
    """Names and numbers of frames of UCF101's videos, empty where the file is missing."""
    if not LENGTHS.is_file():
        return []
    rows = (line.split(",") for line in LENGTHS.read_text().split()[1:])
    return [(name, int(count)) for name, count in rows]


def names(size: int) -> Iterator[str]:
    """Names like UCF101's: classes of 25 groups of 5 clips."""
    for number in range(size):
        yield f"v_MadeUpAction{number // 125:04d}_g{number // 5 % 25 + 1:02d}_c{number % 5 + 1:02d}"


def write_lists(folder: Path, size: int) -> None:
    """A class index and lists of split 01, groups 1 to 7 in the test list."""
    folder.mkdir()
    classes = sorted({name.split("_")[1] for name in names(size)})
    (folder / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    with (folder / "trainlist01.txt").open("w") as train, (folder / "testlist01.txt").open("w") as test:
        for name in names(size):
            line = f"{name.split('_')[1]}/{name}.avi"
            if int(name.split("_g")[1][:2]) <= 7:
                test.write(f"{line}\n")
            else:
                train.write(f"{line} {classes.index(name.split('_')[1]) + 1}\n")


def write_jpeg(path: Path) -> Path:
    """A picture of noise, of the size that UCF101's frames have."""
    from PIL import Image

    Image.effect_noise((341, 256), 60).convert("RGB").save(path, quality=90)
    return path


# ---- one process ----


def measure_afresh(data: Path, args: Namespace) -> dict:
    """`measure` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.startup",
        "--measure",
        data,
        "--batches",
        args.batches,
        "--workers",
        args.workers,
    ]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if finished.returncode:
        raise UserError(f"{data}: measuring failed: {finished.stderr.strip()[-300:]}")
    return json.loads(finished.stdout)


def measure(data: Path, batches: int, workers: int) -> dict:
    """Do what a training script does with the data until the first batch, then `EPOCHS` short epochs.

    Returns seconds of each part and megabytes: of the process after the imports, its peak until the first batch,
    what it and a worker grew by from the end of the first epoch to that of the last, and what a worker has of its own
    after an epoch of all videos (without images).
    """
    clock = [time.perf_counter()]
    from functools import partial

    import torch

    from dataloader.frame_index import index_frames
    from dataloader.spatial_dataloader import spatial_sample
    from dataloader.split_train_test_video import read_split
    from dataloader.video_dataset import EpochBatches, Sample, VideoDataset, end_workers, training_loader

    class FewBatches(EpochBatches):
        limit = batches

        def __len__(self) -> int:
            return min(self.limit, super().__len__())

        def __iter__(self) -> Iterator:
            return itertools.islice(super().__iter__(), self.limit)

    def no_images(video: object, generator: object):
        return Sample(torch.zeros(1, 1, 1, 3, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64))

    torch.set_num_threads(1)
    imported = memory()
    clock.append(time.perf_counter())
    split = read_split(data / "lists", "01", "classInd.txt")
    clock.append(time.perf_counter())
    test, _ = index_frames(data / "frames", split.test)
    train, bad = index_frames(data / "frames", split.train)
    if bad or len(test) != len(split.test):
        raise UserError(f"{data}: some videos were not found")
    clock.append(time.perf_counter())
    test_set = VideoDataset(test, partial(spatial_sample, image_size=224))
    train_set = VideoDataset(train, partial(spatial_sample, image_size=224))
    loader = training_loader(train_set, FewBatches(len(train), BATCH, 0), workers, pin=False)
    first = next(iter(loader))
    clock.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    assert len(first["positions"]) == min(BATCH, len(train)) and len(test_set) == len(split.test)
    here, beside = [], []
    for epoch in range(EPOCHS):
        loader.batch_sampler.epoch = epoch
        for _ in loader:
            pass
        here.append(memory())
        beside.append(worker_memory(loader))
    end_workers()
    all_batches = FewBatches(len(train), BATCH, 0)
    all_batches.limit = len(all_batches) + len(train)
    whole = training_loader(VideoDataset(train, no_images), all_batches, workers, pin=False)
    for _ in whole:
        pass
    own = worker_memory(whole)
    end_workers()
    parts = [after - before for before, after in itertools.pairwise(clock)]
    return {
        **dict(zip(("imports", "lists", "counts", "first batch"), parts, strict=True)),
        "start": sum(parts),
        "imported": imported,
        "peak": peak,
        "growth": here[-1] - here[0],
        "worker growth": beside[-1] - beside[0],
        "worker": own,
    }


def memory() -> float:
    """Resident memory of this process in MB (nan where /proc is missing)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return float("nan")


def worker_memory(loader: Any) -> float:
    """The largest memory in MB that one of the loader's workers has for itself, not shared with any other process."""
    largest = 0.0
    for process in loader._iterator._workers if loader.num_workers else ():
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return float("nan")
        largest = max(largest, sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 2**10)
    return largest


# ---- what is shown ----


def best_of(results: list[dict]) -> dict:
    """The fastest run's times, the largest memory."""
    fastest = min(results, key=lambda result: result["start"])
    sizes = ("peak", "imported", "growth", "worker growth", "worker")
    return fastest | {key: max(result[key] for result in results) for key in sizes}


def print_table(rows: list[dict]) -> None:
    """Print a markdown table."""
    first = rows[0]
    print(
        f"| videos | frames | imports | lists | counting | first batch | start in all | peak memory | more "
        f"than {first['videos']} | growth of main process, worker | worker's own |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        seconds = " | ".join(f"{row[key]:.2f} s" for key in ("imports", "lists", "counts", "first batch", "start"))
        print(
            f"| {row['videos']:,} | {row['frames']:,} | {seconds} | {row['peak']:.0f} MB | "
            f"{row['peak'] - first['peak']:+.0f} MB | {row['growth']:+.1f}, {row['worker growth']:+.1f} MB | "
            f"{row['worker']:.0f} MB |"
        )


def print_limits(rows: list[dict]) -> None:
    """Print what a listed video costs, and the numbers of videos at which that becomes much."""
    small, large = rows[0], rows[-1]
    if len(rows) < 2:
        return
    more = large["videos"] - small["videos"]
    warm = sum(large[key] - small[key] for key in ("lists", "counts")) / more
    # Counting takes a time per frame: the lengths should be real.
    counted = next((row for row in rows if row["videos"] == UCF101), rows[-1])
    cold = sum(counted[key] for key in ("lists", "counts")) / counted["videos"]
    peak, own = (large["peak"] - small["peak"]) / more, (large["worker"] - small["worker"]) / more
    print(
        f"\nA listed video costs {1e6 * cold:.0f} µs of the first start ({counted['frames'] / counted['videos']:.0f} "
        f"frames each), {1e6 * warm:.0f} µs of later ones, {2**10 * peak:.2f} KB of peak memory, and up to "
        f"{2**10 * own:.2f} KB of each worker's."
    )
    reached = {
        "a first start of one minute": 60 / cold,
        "later starts of one minute": 60 / warm,
        "1 GB more of peak memory": 1024 / peak,
        "1 GB of each worker's own": 1024 / own,
    }
    for what, videos in sorted(reached.items(), key=lambda item: item[1]):
        print(f"- {what}: {videos:,.0f} videos")


if __name__ == "__main__":
    run(main)
