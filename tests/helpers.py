"""Tiny data sets and ways to run the scripts on them."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from common import cli
from pose.keypoints import FILE_NAME, save_keypoints

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
CLASSES = ("Archery", "Diving", "TaiChi")
# Small enough that a whole training run takes seconds.
FAST = ("--weights", "none", "--image-size", "32", "--workers", "0", "--device", "cpu", "--batch-size", "4")
FAST += ("--no-amp",)  # with the same figures on every machine


def run_script(script: str, *arguments, cwd: Path = ROOT, timeout: float = 300, **environment: str):
    """Run a script of the repository; returns the finished process with text output."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)


def call_main(module: str, *arguments) -> subprocess.CompletedProcess:
    """Run a script's `main` in this process, as `cli.run` does: without the seconds of a fresh start."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main = importlib.import_module(module).main
            cli.run(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as end:
            status = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def assert_error(finished: subprocess.CompletedProcess, *words: str) -> None:
    """The run ended as a user's mistake should: one `error:` line with these words, status 2."""
    assert finished.returncode == 2, finished.stdout + finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), finished.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


PIXELS = {"ffv1": "bgr0", "png": "rgb24", "mjpeg": "yuvj420p"}  # of each codec; these keep the pictures' bits but mjpeg


def write_video(path: Path, pictures, codec: str = "mpeg4", rate: int = 10, times=None, change=None, **settings):
    """Write `pictures`, uint8 RGB (H, W, 3), shown at `times` in 1/1000 s; `change` edits packets; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = list(pictures)
    quality = {"qmin": "2", "qmax": "2"} if codec in ("mpeg4", "libx264") else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=quality | {"threads": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
        for frame, at in zip(frames, times or (), strict=False):
            frame.pts, frame.time_base = at, Fraction(1, 1000)
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                if change:
                    change(packet)
                container.mux(packet)
    return path


def moving(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Colour gradients of size (width, height) and a bright square that move, one picture unlike the other."""
    y, x = np.mgrid[: size[1], : size[0]]
    for i in range(count):
        picture = np.stack([x * 3 + i * 5, y * 4 - i * 3, x + y + i * 9], axis=2) % 256
        picture[i % 30 : i % 30 + 9, 2 * i % 30 : 2 * i % 30 + 9] = 255
        yield picture.astype(np.uint8)


def read_video(path: Path) -> tuple[list[np.ndarray], Fraction]:
    """Its pictures, as integers, and its frames in a second."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        return frames, container.streams.video[0].average_rate


def decode_flow(images: np.ndarray) -> np.ndarray:
    """Pixels of what `encode_flow` made, within 0.08."""
    return images.astype(np.float32) * (40 / 255) - 20


def write_images(folder: Path, count: int, seed: int, size: tuple[int, int], hue: int) -> None:
    """`count` JPEGs frame000001.jpg, … of size (width, height): noise over a colour of the class's own."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        pixels = generator.integers(0, 100, (size[1], size[0], 3))
        pixels[..., hue % 3] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"frame{number:06d}.jpg", quality=90)


def write_lists(folder: Path, train: list[str], test: list[str], classes=CLASSES) -> None:
    """A class index and the lists of split 04."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd15.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    numbers = {name: i for i, name in enumerate(classes, 1)}
    (folder / "trainlist04.txt").write_text("".join(f"{line} {numbers[line.split('/')[0]]}\n" for line in train))
    (folder / "testlist04.txt").write_text("".join(f"{line}\n" for line in test))


def write_people(folder: Path, count: int, seed: int, label: int) -> None:
    """The keypoints of `count` frames: one person, and in every second video another, who wave as their class does."""
    generator = np.random.default_rng(seed)
    times = np.arange(count)[:, None]
    people = generator.random((1 + seed % 2, 1, 18, 3)) * (0.3, 0.6, 0.5) + (0.1, 0.2, 0.5)
    people = np.repeat(people, count, axis=1)
    people[..., 0] += 0.4 * np.arange(len(people))[:, None, None]
    people[..., 4:8, label % 2] += 0.1 * np.sin(times * (1 + label) / 3)
    people[generator.random(people.shape[:3]) < 0.1] = 0
    folder.mkdir(parents=True)
    frames = np.tile(np.arange(1, count + 1), len(people))
    save_keypoints(folder / FILE_NAME, people.reshape(-1, 18, 3).astype(np.float32), frames, count, (36, 48))


def make_tiny(root: Path) -> Path:
    """Lists, frames, flow (48×36), pose images (40×40), keypoints of 3 classes: 4 training and 2 test videos each."""
    listed = {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        for group in range(1, 7):
            stem = f"{name}_g{group:02d}_c01"
            listed["test" if group <= 2 else "train"].append(f"{name}/v_{stem}.avi")
            frames = 5 + 3 * group  # some shorter than a stack
            write_images(root / "frames" / f"v_{stem}", frames, 100 * label + group, (48, 36), label)
            write_images(root / "pose_flow" / stem, frames, 900 + 100 * label + group, (40, 40), label)
            for part in "uv":
                write_images(root / "flow" / part / f"v_{stem}", frames, 500 + 100 * label + group, (48, 36), label)
            write_people(root / "skeletons" / stem, frames, 100 * label + group, label)
    write_lists(root / "lists", listed["train"], listed["test"])
    return root


STREAMS = {
    "spatial": ("spatial_cnn_15.py", "frames", "rgb"),
    "motion_pose": ("motion_pose_cnn_15.py", "pose_flow", "posef"),
    "flow": ("motion_cnn_15.py", "flow", "flow"),
    "skeleton": ("skeleton_gcn_15.py", "skeletons", "skeleton"),
}


def original(arguments, stream: str = "spatial") -> tuple[str, ...]:
    """`--recipe original`, whose epochs are short and plain, for runs that start anew and choose no other.

    The skeleton stream has no such recipe; its own is made as short and as often tested.
    """
    if stream == "skeleton":
        plain = ("--schedule", "plateau", "--least-steps", "0", "--test-every", "1", "--test-clips", "3")
        return () if "--resume" in arguments else plain
    return () if {"--recipe", "--resume"} & set(arguments) else ("--recipe", "original")


def fast(stream: str) -> tuple[str, ...]:
    """`FAST`, but for what a stream without images does not know."""
    return FAST[4:] if stream == "skeleton" else FAST


def small(arguments, stream: str) -> tuple[str, ...]:
    """timm's smallest ResNet, of 0.5 million weights, for runs that start anew and choose no other network."""
    chosen = {"--arch", "--weights", "--resume", "--evaluate"} & set(arguments) or stream == "skeleton"
    return () if chosen else ("--arch", "test_resnet")


def training(stream: str, data: Path, record: Path, *arguments) -> list[str]:
    """A stream's script and its arguments to train on a tiny data set, by the original recipe unless told otherwise."""
    script, folder, _ = STREAMS[stream]
    paths = ("--data", data / folder, "--ucf-list", data / "lists", "--record", record)
    arguments = (*paths, *original(arguments, stream), *fast(stream), *small(arguments, stream), *arguments)
    return [script, *map(str, arguments)]


def train_script(*arguments, inline: bool = True, **options):
    """Run that in this process if `inline`, else in one of its own."""
    script, *arguments = training(*arguments)
    return call_main(script.removesuffix(".py"), *arguments) if inline else run_script(script, *arguments, **options)


def train_well(*arguments, **options) -> subprocess.CompletedProcess:
    """Run it, which must succeed."""
    finished = train_script(*arguments, **options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def start_training(*arguments, launcher=()) -> subprocess.Popen:
    """Start it in a process, and a session, of its own."""
    script, *arguments = training(*arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, *launcher, str(ROOT / script), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
