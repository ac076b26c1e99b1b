"""What samples cost, read from frames on disk or straight from videos: samples a second of one core, files, bytes.

python -m benchmarks.video_loading ../shared/jhmdb/videos --clips 60
python -m benchmarks.video_loading ../shared/videos --clips 20
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from common.cli import ArgumentParser, print_table, run, whole_number
from common.records import FrameSettings
from common.video import encode_jpeg, frames_of
from dataloader.frame_index import index_frames, index_videos, read_video_frames
from dataloader.images import read_frames
from dataloader.names import Video, find_videos
from dataloader.sampling import random_state
from dataloader.spatial_dataloader import spatial_sample
from network import build_network

SETTINGS = FrameSettings(quality=None)


def get_args_parser() -> ArgumentParser:
    """Command line of this benchmark."""
    parser = ArgumentParser(description="Samples a second and core from frames and from videos, with one thread.")
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--clips", type=whole_number(1), default=60, help="videos that are measured, evenly spread")
    parser.add_argument("--image-size", type=whole_number(32), default=224)
    return parser


def extract(videos: dict[str, Path], root: Path) -> int:
    """Write the frames of `videos` below `root` as extract_frames.py does; returns their bytes."""
    size = 0
    for name, path in videos.items():
        (root / name).mkdir(parents=True)
        for number, rgb in enumerate(frames_of(path, SETTINGS), 1):
            size += (root / name / f"frame{number:06d}.jpg").write_bytes(encode_jpeg(rgb))
    return size


def seconds_a_sample(sample: Callable[[int], object], count: int) -> float:
    """Seconds of processor time of one call, over `count` of them."""
    sample(0)
    start = time.process_time()
    for number in range(count):
        sample(number)
    return (time.process_time() - start) / count


def training_step(image_size: int, videos: int = 4) -> float:
    """Seconds of processor time that a ResNet-18 takes for the 3 frames of one video, forwards and backwards."""
    network = build_network("resnet18", 3, 15)
    images, labels = torch.rand(3 * videos, 3, image_size, image_size), torch.zeros(videos, dtype=torch.int64)

    def step(number: int) -> None:
        F.cross_entropy(network(images).view(videos, 3, -1).mean(1), labels).backward()

    return seconds_a_sample(step, 3) / videos


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = get_args_parser().parse_args(argv)
    torch.set_num_threads(1)
    found = list(find_videos(args.videos).items())
    chosen = dict(found[:: max(len(found) // args.clips, 1)][: args.clips])
    listed = [Video(name.removeprefix("v_"), 0, "", path.name) for name, path in chosen.items()]
    with tempfile.TemporaryDirectory() as folder:
        size = extract(chosen, Path(folder))
        rows, times, step = [], {}, training_step(args.image_size)
        for what, root in (("frames", Path(folder)), ("videos", args.videos)):
            videos = what == "videos"
            good, _ = index_videos(root, listed, SETTINGS) if videos else index_frames(root, listed)
            read = partial(read_video_frames, settings=SETTINGS) if videos else read_frames
            sample = partial(spatial_sample, image_size=args.image_size, augmentation=("resized", 0.0), read=read)
            draw = lambda number, good=good, sample=sample: sample(  # noqa: E731
                good[number % len(good)], random_state(0, number // len(good), str(number))
            )
            test = lambda number, good=good, sample=sample: sample(good[number % len(good)], None)  # noqa: E731
            times[what] = seconds_a_sample(draw, 2 * len(good)), seconds_a_sample(test, len(good))
        frames = [video.frames.num_frames for video in good]
        files = {"frames": (sum(frames), size), "videos": (len(good), sum(p.stat().st_size for p in chosen.values()))}
    for what, (train, test) in times.items():
        count, total = files[what]
        cells = [f"{1 / train:.0f}", f"{1 / test:.1f}", f"{(step + train) / (step + times['frames'][0]):.2f}"]
        rows.append([what, str(count), f"{total / 1e6:.1f}", *cells])
    print(f"{len(good)} videos of {np.mean(frames):.0f} frames on average; a step takes {1e3 * step:.0f} ms a video")
    print_table(["", "files", "MB", "training samples/s", "tests/s", "training time"], rows)


if __name__ == "__main__":
    run(main)
