"""Pose networks in ONNX files, run by ONNX Runtime: those with OpenPose's maps, MoveNet MultiPose, YOLO-pose."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.cli import UserError
from pose.paf import group_people
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS

if TYPE_CHECKING:
    import onnxruntime

MAPS, MOVENET, YOLO = "maps", "movenet", "yolo"  # kinds of networks
MAPS_SIZE, YOLO_SIZE = (368, 432), (640, 640)  # (height, width) for networks that take any
MOVENET_SIDE = 256  # pixels of the longer side
MOST_PEOPLE = 1000  # of a network that suppresses boxes itself; others of such rows, as YOLOv7's, give thousands
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
# Both packages fill the same folder: beside onnxruntime, the other one has no effect.
GPU_PACKAGE = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def load_network(
    path: str | os.PathLike, device: str = "auto", input_size: tuple[int, int] | None = None
) -> tuple[Callable, Callable, str, dict]:
    """The stages `prepare` and `infer` of an `Estimator`, the kind of the network, and the settings in use.

    The network in the .onnx file takes one image, NHWC or NCHW. Its outputs tell what kind it is:
    maps: OpenPose's 19 heatmaps and 38 PAFs, as two outputs or one in this order, of B, G, R as x/127.5 − 1; frames are
    stretched. movenet: MoveNet MultiPose, (1, 6, 56), of R, G, B from 0 to 255. yolo: YOLO-pose, (1, 56, N), or (1, N,
    57) after its own non-maximum suppression, of R, G, B as x/255. Frames are fitted into the last two's input (`fit`).
    `input_size` (height, width) is for models that have none.
    """
    import cv2  # here, for scripts that draw poses do without it

    session = open_session(path, device)
    image, *others = session.get_inputs()
    if others or len(image.shape) != 4 or image.type not in DTYPES:
        raise UserError(f"{path}: a pose network has one input of four axes, the image; this one has not")
    last, dtype = image.shape[3] == 3, DTYPES[image.type]  # the axis of the colours
    own = [side if isinstance(side, int) else None for side in (image.shape[1:3] if last else image.shape[2:])]
    if input_size and None not in own and own != [*input_size]:
        raise UserError(f"{path}: its input is {own[0]}x{own[1]}; leave --input-size out")

    # A frame at a time, repeated where the network must have more: some exported networks normalise over the batch, so
    # that neighbours would change a frame's people, and on the CPU larger batches are no faster.
    def run(pixels: np.ndarray) -> list[np.ndarray]:
        values = np.ascontiguousarray(pixels if last else pixels.transpose(2, 0, 1), dtype)
        count = image.shape[0] if isinstance(image.shape[0], int) else 1
        try:
            return [output[:1] for output in session.run(None, {image.name: np.stack([values] * count)})]
        except Exception as error:  # onnxruntime's exceptions have no common base
            size = f"{pixels.shape[0]}x{pixels.shape[1]}"
            raise UserError(f"{path}: the network fails on {size}: {str(error)[:200]}") from None

    def sized(height: int, width: int) -> tuple[int, int]:
        wanted = input_size or (height, width)
        return own[0] or wanted[0], own[1] or wanted[1]

    trial = run(np.zeros((*sized(256, 256), 3), np.float32))
    kind = _kind(trial, last)
    if kind is None:
        shapes = ", ".join(str(output.shape) for output in trial)
        known = "OpenPose's 19 heatmaps and 38 PAFs, MoveNet's (1, 6, 56), YOLO-pose's (1, 56, N) or (1, N, 57)"
        raise UserError(f"{path}: its outputs are {shapes}; known are {known}")
    size = sized(*{MAPS: MAPS_SIZE, YOLO: YOLO_SIZE, MOVENET: (0, 0)}[kind])

    def prepare(frame: np.ndarray) -> np.ndarray:
        if kind == MAPS:
            return (cv2.resize(frame, size[::-1])[..., ::-1] - np.float32(127.5)) / np.float32(127.5)
        height, width, scale = fit(frame.shape[:2], size)
        inner = max(round(frame.shape[1] * scale), 1), max(round(frame.shape[0] * scale), 1)
        picture = np.full((height, width, 3), 0 if kind == MOVENET else 114, np.uint8)
        picture[: inner[1], : inner[0]] = cv2.resize(frame, inner, interpolation=cv2.INTER_LINEAR)
        return picture if kind == MOVENET else picture / np.float32(255)

    def infer(inputs: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        outputs = [run(values) for values in inputs]
        if kind == MAPS:
            return [_find_maps(output, last) for output in outputs]
        return [(output[0][0].astype(np.float32), np.array(size)) for output in outputs]

    return prepare, infer, kind, {"input_size": [*size]} if any(size) else {}


def fit(frame_size: tuple[int, int], size: Sequence[int] | np.ndarray) -> tuple[int, int, float]:
    """Height and width of a network's input, and the scale at which a frame lies in its upper left corner.

    `size` is the input's; where it is 0, as for MoveNet, the frame's longer side becomes 256 pixels, and its sides are
    filled up to multiples of 32.
    """
    if any(size):
        return int(size[0]), int(size[1]), min(size[0] / frame_size[0], size[1] / frame_size[1])
    scale = MOVENET_SIDE / max(frame_size)
    height, width = (-(-round(side * scale) // 32) * 32 for side in frame_size)
    return height, width, scale


def _kind(outputs: list[np.ndarray], channels_last: bool) -> str | None:
    for output in outputs:
        if output.ndim == 3 and output.shape[2] == 56 and output.shape[1] <= 10:
            return MOVENET
        if output.ndim == 3 and (output.shape[1] == 56 or (output.shape[2] == 57 and output.shape[1] <= MOST_PEOPLE)):
            return YOLO
    return MAPS if _find_maps(outputs, channels_last) else None


def _find_maps(outputs: list[np.ndarray], channels_last: bool) -> tuple[np.ndarray, ...]:
    """Heatmaps (H, W, 19) and PAFs (H, W, 38), float32, in a network's outputs; nothing if they are not there."""
    both = NUM_HEATMAPS + NUM_PAFS
    found = {}  # by the number of maps; of several stages the last counts
    for output in outputs:
        for axis in ((3, 1) if channels_last else (1, 3)) if output.ndim == 4 else ():
            if output.shape[axis] in (NUM_HEATMAPS, NUM_PAFS, both):
                found[output.shape[axis]] = np.moveaxis(output[0], axis - 1, -1).astype(np.float32, copy=False)
                break
    if both in found:
        return tuple(np.split(found[both], [NUM_HEATMAPS], axis=2))
    return (found[NUM_HEATMAPS], found[NUM_PAFS]) if {NUM_HEATMAPS, NUM_PAFS} <= found.keys() else ()


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
