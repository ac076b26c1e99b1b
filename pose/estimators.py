"""Estimators of human pose: frames in, people out, whatever the network.

torch and onnxruntime are imported only by the estimator that needs them: without them, scripts start fast.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.cli import UserError, image_size
from common.download import download, file_hash
from pose.coco import group_movenet, group_rtmpose, group_yolo, load_rtmpose
from pose.onnx_network import MAPS, MOVENET, YOLO, find_provider, group_maps, load_network

MODELS = ("movenet", "rtmpose", "openpose", "onnx")
GROUPS = {MAPS: group_maps, MOVENET: group_movenet, YOLO: group_yolo}
# MoveNet MultiPose Lightning (Apache-2.0), at one commit; its hash as Git counts it.
MOVENET_URL = (
    "https://raw.githubusercontent.com/Kazuhito00/MoveNet-Python-Example/"
    "515743a113e49b4f31677b1f6252c0041f237e30/onnx/movenet_multipose_lightning_1.onnx"
)
MOVENET_HASH = "d835efdb072cb0a57e79fe5daf177eaf572d317a"
MOVENET_REMEDY = "get that file elsewhere and give it with --model movenet --pose-weights FILE"
RTMPOSE_MODES, RTMPOSE_MODE = ("lightweight", "balanced", "performance", "rtmo"), "balanced"


@dataclass(frozen=True)
class Estimator:
    """The three stages of pose estimation, apart so that a pipeline can overlap them; each may raise `UserError`.

    prepare: a frame, uint8 (H, W, 3) RGB, to the network's input; called in threads.
    infer: inputs of frames of one size to as many raw outputs, tuples of numpy arrays; one call at a time.
    group: a raw output and its frame's (height, width) to people, float32 (P, 18, 3) with x and y in [0, 1] and a
    score (0: part not found); called in threads.
    settings: what people depend on, in plain values (the model, a hash of its weights, …).
    """

    prepare: Callable[[np.ndarray], np.ndarray]
    infer: Callable[[Sequence[np.ndarray]], list[tuple[np.ndarray, ...]]]
    group: Callable[[tuple[np.ndarray, ...], tuple[int, int]], np.ndarray]
    settings: dict

    def __call__(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """People of each of `frames`, uint8 (H, W, 3) RGB of one size, one stage after the other."""
        raw = self.infer([self.prepare(frame) for frame in frames]) if len(frames) else []
        return [self.group(output, frame.shape[:2]) for output, frame in zip(raw, frames, strict=True)]


# ---- making one ----


def add_estimator_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose an estimator; `estimator_from_arguments` reads them."""
    add = parser.add_argument_group("pose estimation").add_argument
    text = "movenet: MoveNet MultiPose, up to 6 people, fast on CPUs; rtmpose: by rtmlib; openpose: VGG-19 with PAFs, "
    text += "non-commercial; onnx: a file with OpenPose's maps, a MoveNet, or a YOLO-pose (default: movenet; rtmpose "
    add("--model", choices=MODELS, help=text + "where onnxruntime has a GPU)")
    text = "the .onnx file of onnx or movenet, or weights of openpose, .pth or .safetensors; but onnx's are downloaded"
    add("--pose-weights", type=Path, metavar="FILE", help=text)
    text = "of rtmpose: its networks, small to large, or RTMO-m, whose time does not grow with the number of people"
    add("--rtmpose-mode", choices=RTMPOSE_MODES, help=text + f" (default: {RTMPOSE_MODE})")
    text = "of onnx: size of the input (default: the network's own, else 368x432 for maps, 640x640 for YOLO)"
    add("--input-size", type=image_size, metavar="HxW", help=text)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where the network runs")
    text = "mixed precision of torch networks on cuda, and of predict.py's streams on processors with bfloat16 too"
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help=text)


def estimator_from_arguments(args: argparse.Namespace, before: Mapping | None = None) -> Estimator:
    """The estimator that the options describe; what they leave open is as in `before`, another one's settings."""
    before = before or {}
    model = args.model or (before.get("model") if before.get("model") in MODELS else None)
    if model is None and (args.pose_weights or args.rtmpose_mode):
        own = "onnx" if args.pose_weights and args.pose_weights.suffix == ".onnx" else "openpose"
        model = own if args.pose_weights else "rtmpose"
    model = model or default_model(args.device)
    mode = args.rtmpose_mode or before.get("rtmpose_mode") or RTMPOSE_MODE
    options = {"rtmpose_mode": mode, "input_size": args.input_size}
    return make_estimator(model, args.pose_weights, args.device, args.amp, **options)


def default_model(device: str) -> str:
    """RTMPose where onnxruntime has a GPU, which it needs to be fast, else MoveNet; says which."""
    with contextlib.redirect_stderr(io.StringIO()):  # what it says is said when the network is loaded
        model = "rtmpose" if find_provider(device)[0] == "cuda" else "movenet"
    print(f"people are found by {model} (--model takes another)", file=sys.stderr)
    return model


def make_estimator(
    model: str,
    weights: str | Path | None = None,
    device: str = "auto",
    amp: bool = True,
    *,
    rtmpose_mode: str = RTMPOSE_MODE,
    input_size: tuple[int, int] | None = None,
) -> Estimator:
    """Make an estimator of one of `MODELS`; without `weights`, those of all but `onnx` are downloaded."""
    if weights is None and model == "onnx":
        raise UserError("--model onnx needs its weights: give --pose-weights FILE, or --model movenet")
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"{weights}: no such file; give existing weights with --pose-weights FILE")
    if weights is not None and model == "rtmpose":
        raise UserError(f"--pose-weights {weights}: rtmpose has its own; give --model onnx, or openpose, with it")
    if model == "rtmpose":
        prepare, infer, described = load_rtmpose(rtmpose_mode, device)
        return Estimator(prepare, infer, group_rtmpose, {"model": model} | described)
    if model in ("movenet", "onnx"):
        path = Path(weights or download(MOVENET_URL, MOVENET_REMEDY, MOVENET_HASH))
        prepare, infer, kind, described = load_network(path, device, input_size)
        return Estimator(prepare, infer, GROUPS[kind], {"model": model, "weights": file_hash(path)} | described)
    return _openpose_estimator(weights, device, amp)


def _openpose_estimator(weights: str | Path | None, device: str, amp: bool) -> Estimator:
    import torch

    from pose.openpose import SHA256, load_openpose, preprocess
    from utils import pick_device

    place = pick_device(device)
    if place.type == "cuda":
        # The same frames give the same people, whatever ran before.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    network = load_openpose(weights).to(place)
    cast = partial(torch.autocast, "cuda", torch.float16) if amp and place.type == "cuda" else contextlib.nullcontext

    def infer(frames: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        with torch.inference_mode(), cast():
            images, (height, width) = preprocess(torch.from_numpy(np.stack(frames)).to(place))
            pafs, heatmaps = (maps.float().permute(0, 2, 3, 1).cpu().numpy() for maps in network(images))
        covered = np.array([height / images.shape[-2], width / images.shape[-1]])
        return [(*maps, covered) for maps in zip(heatmaps, pafs, strict=True)]

    settings = {"model": "openpose", "weights": file_hash(Path(weights)) if weights else SHA256}
    return Estimator(np.ascontiguousarray, infer, group_maps, settings)
