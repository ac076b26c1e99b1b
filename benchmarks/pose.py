"""Time pose estimation and drawing: grouping, drawing, the network. Prints a table of processor time.

python -m benchmarks.pose --models rtmpose openpose   # whole estimators, with their weights

"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.cli import ArgumentParser, UserError, run
from common.frames import read_image
from common.video import resize_short_side
from pose.draw import draw_people, save_pose_image
from pose.estimators import MODELS, add_estimator_arguments, estimator_from_arguments
from pose.openpose import OpenPose, preprocess
from pose.paf import group_people
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS, NUM_PARTS
from tests.reference_data import REAL_IMAGES, real_pose
from utils import pick_device

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "pose" / "expected"
MAP_SIZE = (46, 54)
FRAME_SIZE = (256, 341)
# A person standing upright, x and y in parts of its height from the middle of the hips.
STANDING = np.array(
    [
        (0, -0.42),
        (0, -0.34),
        (-0.1, -0.34),
        (-0.13, -0.2),
        (-0.14, -0.06),
        (0.1, -0.34),
        (0.13, -0.2),
        (0.14, -0.06),
        (-0.06, 0),
        (-0.06, 0.24),
        (-0.06, 0.46),
        (0.06, 0),
        (0.06, 0.24),
        (0.06, 0.46),
        (-0.02, -0.44),
        (0.02, -0.44),
        (-0.045, -0.43),
        (0.045, -0.43),
    ]
)


def get_args_parser() -> ArgumentParser:
    """Options of this script."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="measurements of each row")
    parser.add_argument("--network-repeat", type=int, default=3, help="measurements of the network's rows")
    parser.add_argument("--side", type=int, default=368, help="of the network's square input, in pixels")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    text = "estimators to time instead, with weights that are downloaded, or --pose-weights"
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help=text)
    add_estimator_arguments(parser)
    parser.set_defaults(device="cpu")
    return parser


def standing_people(count: int, seed: int = 0) -> np.ndarray:
    """`count` people side by side, each of another size, (P, 18, 3)."""
    rng = np.random.default_rng(seed)
    people = np.ones((count, NUM_PARTS, 3), np.float32)
    for i, person in enumerate(people):
        center = (i + 0.5) / count, 0.5 + 0.05 * rng.uniform(-1, 1)
        person[:, :2] = center + STANDING * rng.uniform(0.6, 0.8) * (0.75, 1)
    return people


def measure(function: Callable, repeat: int, device: str = "cpu") -> tuple[float, float]:
    """Median and minimum of the milliseconds that `function()` takes, after one call to warm up.

    On a processor they are its time, of all threads, which other work beside it changes little.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for i in range(repeat + 1):
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if i:
            times.append(1000 * (clock() - start))
    return statistics.median(times), min(times)


def main(argv: list[str] | None = None) -> None:
    """Measure all rows and print them as a Markdown table."""
    args = get_args_parser().parse_args(argv)
    if min(args.repeat, args.network_repeat, args.threads) < 1 or args.side < 8:
        raise UserError("--repeat, --network-repeat and --threads must be at least 1, --side at least 8")
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"torch {torch.__version__}, {args.threads} of {os.cpu_count()} processor threads, device {where}\n")
    print("| what | median ms | least ms |\n| --- | ---: | ---: |")

    def row(name: str, function: Callable[[], object], repeat: int = args.repeat, per: int = 1):
        median, least = measure(function, repeat, device.type)
        print(f"| {name} | {median / per:.2f} | {least / per:.2f} |", flush=True)

    if args.models:
        time_estimators(args, row)
        return
    empty = [np.zeros((*MAP_SIZE, channels), np.float32) for channels in (NUM_HEATMAPS, NUM_PAFS)]
    row("group_people, empty maps", lambda: group_people(*empty))
    for name in REAL_IMAGES:
        maps = real_pose(name)[:2]
        row(f"group_people, {name}, {len(group_people(*maps))} found", lambda maps=maps: group_people(*maps))
    for count in (1, 2, 5):
        people = standing_people(count)
        row(f"draw_people, {count} in a frame", lambda people=people: draw_people(people, FRAME_SIZE))
    image = draw_people(standing_people(2), FRAME_SIZE)
    with Path(os.devnull).open("wb") as nowhere:
        row("save_pose_image", lambda: save_pose_image(nowhere, image))
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME_SIZE, 3), dtype=np.uint8)
    row("preprocess", lambda: preprocess(frame))
    network = OpenPose().eval().to(device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for batch in (1,) if device.type == "cpu" else (1, 16):
            images = torch.rand(batch, 3, args.side, args.side, device=device)
            images = images.contiguous(memory_format=torch.channels_last)
            name = f"OpenPose at {args.side}x{args.side}, batch of {batch}"
            row(f"{name}, per image", lambda images=images: network(images), args.network_repeat, batch)
            if device.type == "cuda":
                with torch.autocast("cuda", torch.float16):
                    row(
                        f"{name}, float16, per image", lambda images=images: network(images), args.network_repeat, batch
                    )


def time_estimators(args: argparse.Namespace, row: Callable) -> None:
    """A row for each of `args.models`: a frame of short side 256 with people, if ../shared has a picture of some."""
    pictures = sorted(PICTURES.glob("*.jpg"))
    noise = np.random.default_rng(0).integers(0, 256, (*FRAME_SIZE, 3), dtype=np.uint8)
    frame = resize_short_side(read_image(pictures[0])) if pictures else noise
    for model in args.models:
        args.model = model
        estimator = estimator_from_arguments(args)
        name = f"{model}, {frame.shape[1]}x{frame.shape[0]}, {len(estimator([frame])[0])} found"
        row(name, lambda estimator=estimator: estimator([frame]), args.network_repeat)


if __name__ == "__main__":
    run(main)
