"""Pose networks in ONNX files, run by ONNX Runtime: those with OpenPose's maps."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from common.cli import UserError
from pose.paf import group_people
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS

if TYPE_CHECKING:
    import onnxruntime

DEFAULT_SIZE = (368, 432)
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
# Both packages fill the same folder: beside onnxruntime, the other one has no effect.
GPU_PACKAGE = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def load_network(
    path: str | os.PathLike, device: str = "auto", input_size: tuple[int, int] | None = None
) -> tuple[Callable, Callable, dict]:
    """The stages `prepare` and `infer` of an `Estimator`, and the settings in use, from an .onnx file.

    The network takes one image, NHWC or NCHW, B, G, R as x/127.5 − 1, and gives OpenPose's 19 heatmaps and 38 PAFs, as
    two outputs or as one in this order. Frames are stretched to `input_size` (height, width), if the model has none.
    """
    import cv2  # here, for processes that group poses do without it

    session = open_session(path, device)
    image, *others = session.get_inputs()
    if others or len(image.shape) != 4 or image.type not in DTYPES:
        raise UserError(f"{path}: a pose network has one float input of four axes, the image; this one has not")
    last = image.shape[3] == 3  # the axis of the colours
    own = image.shape[1:3] if last else image.shape[2:]
    sizes = zip(own, input_size or DEFAULT_SIZE, strict=True)
    height, width = (side if isinstance(side, int) else default for side, default in sizes)
    if input_size not in (None, (height, width)):
        raise UserError(f"{path}: its input is {height}x{width}; leave --input-size out")
    dtype = DTYPES[image.type]

    def prepare(frame: np.ndarray) -> np.ndarray:
        values = (cv2.resize(frame, (width, height))[..., ::-1] - np.float32(127.5)) / np.float32(127.5)
        return np.ascontiguousarray(values if last else values.transpose(2, 0, 1), dtype)

    # A frame at a time: some exported networks normalise over the batch, so that neighbours would change a
    # frame's people, and on the CPU larger batches are no faster.
    def run(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            outputs = session.run(None, {image.name: values[None]})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"{path}: the network fails on {height}x{width}: {str(error)[:200]}") from None
        return _find_maps(path, outputs, 3 if last else 1)

    run(prepare(np.zeros((height, width, 3), np.uint8)))  # another network is told now
    return prepare, lambda inputs: [run(values) for values in inputs], {"input_size": [height, width]}


def _find_maps(path: str | os.PathLike, outputs: list[np.ndarray], axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (H, W, 19) and PAFs (H, W, 38), float32, in a network's outputs, their channels on `axis` or another."""
    found = {}  # by the number of maps; of several stages the last counts
    for output in outputs:
        for place in (axis, 4 - axis) if output.ndim == 4 else ():
            if output.shape[place] in (NUM_HEATMAPS, NUM_PAFS, NUM_HEATMAPS + NUM_PAFS):
                maps = np.moveaxis(output[0], place - 1, -1).astype(np.float32, copy=False)
                found[maps.shape[2]] = maps
                break
    if NUM_HEATMAPS + NUM_PAFS in found:
        heatmaps, pafs = np.split(found[NUM_HEATMAPS + NUM_PAFS], [NUM_HEATMAPS], axis=2)
        return heatmaps, pafs
    if {NUM_HEATMAPS, NUM_PAFS} <= found.keys():
        return found[NUM_HEATMAPS], found[NUM_PAFS]
    shapes = ", ".join(str(output.shape) for output in outputs)
    raise UserError(f"{path}: its outputs are {shapes}, not OpenPose's {NUM_HEATMAPS} heatmaps and {NUM_PAFS} PAFs")


def group_maps(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from heatmaps (H, W, 19), PAFs (H, W, 38) and, optionally, the (height, width) in [0, 1] that the
    frame covers of them: the rest is padding on the right and below.
    """
    try:
        people = group_people(*raw[:2])
    except ValueError as error:
        raise UserError(f"the pose network's output is of no use: {error}; try --no-amp, or other weights") from None
    if len(raw) > 2:
        people[..., :2] = np.minimum(people[..., :2] / raw[2][::-1].astype(np.float32), 1)
    return people


# ---- ONNX Runtime ----


def find_provider(device: str) -> tuple[str, str]:
    """The device that `auto` stands for, and onnxruntime's provider."""
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        raise UserError("this model needs onnxruntime, which is not installed: pip install onnxruntime") from None
    available = get_available_providers()
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


def open_session(path: str | os.PathLike, device: str) -> "onnxruntime.InferenceSession":
    """An `onnxruntime.InferenceSession` of a file on `device`."""
    name, provider = find_provider(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
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
