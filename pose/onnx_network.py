"""OpenPose-style networks in ONNX files, run by onnxruntime."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.cli import UserError
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}

# Both packages fill the same folder: beside onnxruntime, the other one has no effect.
GPU_PACKAGE = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
NUM_MAPS = NUM_HEATMAPS + NUM_PAFS
DEFAULT_SIZE = (368, 432)
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
BLOCK = 16  # rows: small enough for the processor's cache


def load_network(
    path: str | os.PathLike,
    device: str = "auto",
    *,
    input_size: tuple[int, int] | None = None,
    layout: str = "auto",
    order: str = "auto",
    channels: str = "bgr",
    mean: tuple[float, ...] = (127.5,),
    std: tuple[float, ...] = (127.5,),
) -> tuple[Callable, Callable, dict]:
    """The stages `prepare` and `infer` of an `Estimator`, and the settings in use, from an .onnx file.

    The network takes one image and gives 19 heatmaps and 38 PAFs, as two outputs or one. Frames are stretched to
    `input_size` (height, width), and mapped by (x - mean) / std in the order `channels`. What is None or `auto` is
    read from the model and a trial run. Raises `UserError` if the file is no such network or contradicts an option.
    """
    if not all(std):
        raise UserError(f"--onnx-std {std}: nothing can be divided by a std of 0; give other numbers")
    session = open_session(path, device)
    image, *others = session.get_inputs()
    if others or len(image.shape) != 4 or image.type not in DTYPES:
        raise UserError(f"{path}: a pose network has one float input of four axes, the image; this one has not")
    layout = _find_layout(path, image.shape, layout)
    size = _find_size(path, image.shape, layout, input_size)
    dtype = DTYPES[image.type]
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)

    def prepare(frame: np.ndarray) -> np.ndarray:
        pixels = resize_bilinear(frame, *size)
        values = ((pixels[..., ::-1] if channels == "bgr" else pixels) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1) if layout == "nchw" else values, dtype)

    # A frame at a time: some exported networks normalise over the batch, so that neighbours would change a
    # frame's people, and on the CPU larger batches are no faster.
    def run(values: np.ndarray) -> list[np.ndarray]:
        try:
            return session.run(None, {image.name: values[None]})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"{path}: the network fails on {size[0]}x{size[1]}: {str(error)[:200]}") from None

    trial = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    select = _find_maps(path, run(prepare(trial)), layout, order)
    settings = {"input_size": list(size), "layout": layout, "channels": channels}
    settings |= {"mean": mean.tolist(), "std": std.tolist()}
    return prepare, lambda inputs: [select(run(values)) for values in inputs], settings


def _find_layout(path: str | os.PathLike, shape: list, layout: str) -> str:
    possible = [name for name, axis in (("nhwc", 3), ("nchw", 1)) if shape[axis] == 3]
    if layout == "auto":
        if len(possible) != 1:
            raise UserError(f"{path}: its input {shape} does not tell where the colours are; give --onnx-layout")
        return possible[0]
    if layout not in possible and (possible or isinstance(shape[3 if layout == "nhwc" else 1], int)):
        raise UserError(f"{path}: its input {shape} is not {layout}; give another --onnx-layout")
    return layout


def _find_size(path: str | os.PathLike, shape: list, layout: str, size: tuple[int, int] | None) -> tuple[int, int]:
    own = [side if isinstance(side, int) else None for side in (shape[1:3] if layout == "nhwc" else shape[2:])]
    wanted = size or [side or default for side, default in zip(own, DEFAULT_SIZE, strict=True)]
    if any(side not in (None, given) for side, given in zip(own, wanted, strict=True)):
        raise UserError(f"{path}: its input is {own[0] or 'any'}x{own[1] or 'any'}; leave --input-size out")
    return wanted[0], wanted[1]


def _find_maps(path: str | os.PathLike, outputs: list[np.ndarray], layout: str, order: str) -> Callable:
    """A function that picks (heatmaps (H, W, 19), PAFs (H, W, 38)), float32, from the network's outputs."""
    found = {}  # number of maps -> (output, axis of its channels); of several stages the last counts
    for number, output in enumerate(outputs):
        for axis in (3, 1) if layout == "nhwc" else (1, 3):
            if output.ndim == 4 and output.shape[axis] in (NUM_HEATMAPS, NUM_PAFS, NUM_MAPS):
                found[output.shape[axis]] = (number, axis)
                break

    def take(outputs: list[np.ndarray], count: int):
        number, axis = found[count]
        return np.moveaxis(outputs[number][0], axis - 1, -1).astype(np.float32, copy=False)

    if NUM_MAPS in found:
        if order == "auto":
            maps = take(outputs, NUM_MAPS)
            first, last = (maps[..., channel].mean() for channel in (NUM_HEATMAPS - 1, NUM_MAPS - 1))
            if not (first > 0.5 > last or last > 0.5 > first):
                raise UserError(f"{path}: no map looks like the background's; give --onnx-order")
            order = "heatmaps-pafs" if first > last else "pafs-heatmaps"
        split, swap = (NUM_HEATMAPS, 1) if order == "heatmaps-pafs" else (NUM_PAFS, -1)
        return lambda outputs: tuple(np.split(take(outputs, NUM_MAPS), [split], axis=2)[::swap])
    if {NUM_HEATMAPS, NUM_PAFS} <= found.keys() and len({take(outputs, n).shape[:2] for n in found}) == 1:
        return lambda outputs: (take(outputs, NUM_HEATMAPS), take(outputs, NUM_PAFS))
    shapes = ", ".join(str(output.shape) for output in outputs)
    raise UserError(f"{path}: its outputs are {shapes}, not OpenPose's {NUM_HEATMAPS} heatmaps and {NUM_PAFS} PAFs")


# ---- resizing ----


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (H, W, C) bilinearly without antialiasing, to the bit as OpenCV's INTER_LINEAR does.

    The networks were trained behind that function, and small ones notice a difference of one grey level.
    """
    left, right, left_weight, right_weight = _taps(image.shape[1], width, image.shape[2], clamp=True)
    columns = image.reshape(len(image), -1).astype(np.int32)
    rows = (columns.take(left, axis=1) * left_weight + columns.take(right, axis=1) * right_weight) >> 4
    top, bottom, top_weight, bottom_weight = _taps(image.shape[0], height, 1, clamp=False)
    result = np.empty((height, rows.shape[1]), np.uint8)
    for start in range(0, height, BLOCK):
        block = slice(start, start + BLOCK)
        mixed = rows.take(top[block], axis=0) * top_weight[block, None] >> 16
        mixed += rows.take(bottom[block], axis=0) * bottom_weight[block, None] >> 16
        result[block] = (mixed + 2) >> 2
    return result.reshape(height, width, -1)


@lru_cache(maxsize=64)
def _taps(length: int, size: int, channels: int, clamp: bool) -> tuple[np.ndarray, ...]:
    """Both neighbours of each new value in a row of pixels, and their weights in units of 1/2048, OpenCV's rounding."""
    position = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    fraction = position - first
    if clamp:
        fraction[(first < 0) | (first >= length - 1)] = 0
        first = first.clip(0, length - 1)
    weights = (
        np.rint(share * np.float32(2048)).astype(np.int32).repeat(channels) for share in (1 - fraction, fraction)
    )
    pixels = (first.clip(0, length - 1), (first + 1).clip(0, length - 1))
    return *((pixel[:, None] * channels + np.arange(channels)).ravel() for pixel in pixels), *weights


# ---- ONNX Runtime ----


def find_provider(device: str) -> tuple[str, str]:
    """The device that `auto` stands for, and onnxruntime's provider; raises `UserError` if there is none."""
    available = available_providers()
    name = device if device != "auto" else "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[name] not in available:
        remedy = GPU_PACKAGE if name == "cuda" else "use another, or --device cpu"
        raise UserError(f"--device {name}: this onnxruntime has no {PROVIDERS[name]}; {remedy}")
    if device == "auto" and name == "cpu" and shutil.which("nvidia-smi"):
        print(f"poses are found on the CPU, not on the GPU: {GPU_PACKAGE}", file=sys.stderr)
    return name, PROVIDERS[name]


def check_provider(session: "onnxruntime.InferenceSession", name: str, device: str, path: str | os.PathLike) -> None:
    """Tell of a session for the device `name` that fell back to the CPU; `UserError` if `device` asked for it."""
    if PROVIDERS[name] not in session.get_providers():
        problem = f"{path}: onnxruntime cannot use {PROVIDERS[name]} (are CUDA and cuDNN of its version installed?)"
        if device != "auto":
            raise UserError(f"{problem}; repair that, or take --device cpu")
        print(f"{problem}; poses are found on the CPU", file=sys.stderr)


def available_providers() -> list[str]:
    """What this onnxruntime computes on; raises `UserError` if it is not installed."""
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        raise UserError("this model needs onnxruntime, which is not installed: pip install onnxruntime") from None
    return get_available_providers()


def open_session(path: str | os.PathLike, device: str, threads: int = 0) -> "onnxruntime.InferenceSession":
    """An `onnxruntime.InferenceSession` of a file on `device`, with so many processor threads (0: one a core).

    Raises `UserError` if onnxruntime cannot load the file or lacks the device.
    """
    name, provider = find_provider(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    # Waiting threads that spin would take the cores from those that read and draw.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        providers = list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UserError(f"{path}: onnxruntime cannot load it: {str(error)[:200]}") from None
    check_provider(session, name, device, path)
    return session
