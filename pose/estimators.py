"""Estimators of human pose: frames in, people out, whatever the network.

torch and onnxruntime are imported only by the estimator that needs them, so that the processes that group and
draw start fast.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import UserError, image_size, numbers, whole_number
from common.download import file_hash
from pose.coco import BOX_SCORE, COCO_PARTS, group_keypointrcnn, group_rtmpose
from pose.paf import group_people

MODELS = ("rtmpose", "openpose", "keypointrcnn", "onnx")
RTMPOSE_MODES, RTMPOSE_MODE = ("lightweight", "balanced", "performance", "rtmo"), "balanced"
RCNN_SIDE, TORCHVISION_SIDE = 320, 800


@dataclass(frozen=True)
class Estimator:
    """The three stages of pose estimation, apart so that a pipeline can overlap them; each may raise `UserError`.

    prepare: a frame, uint8 (H, W, 3) RGB, to the network's input; called in threads.
    infer: inputs of frames of one size to as many raw outputs, tuples of numpy arrays; called in one thread.
    group: a raw output and its frame's (height, width) to people, float32 (P, 18, 3) with x and y in [0, 1] and a
    score (0: part not found); called in other processes.
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
    text = "rtmpose: by rtmlib; openpose: VGG-19 with PAFs, for non-commercial use; keypointrcnn: torchvision's; "
    add(
        "--model",
        choices=MODELS,
        help=text + f"onnx: any with OpenPose's 19 heatmaps and 38 PAFs (default: {MODELS[0]})",
    )
    text = "weights of openpose or keypointrcnn, .pth or .safetensors, which are else downloaded, or the .onnx file"
    add("--pose-weights", type=Path, metavar="FILE", help=text)
    text = "of rtmpose: its networks, small to large, or RTMO-m, whose time does not grow with the number of people"
    add("--rtmpose-mode", choices=RTMPOSE_MODES, help=text + f" (default: {RTMPOSE_MODE})")
    text = "of keypointrcnn: short side that it scales frames to; torchvision's own is 800"
    add("--rcnn-side", type=whole_number(64, 2048), metavar="PIXELS", help=text + f" (default: {RCNN_SIDE})")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where the network runs")
    text = "mixed precision of torch networks on cuda, and of predict.py's streams on processors with bfloat16 too"
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help=text)
    add = parser.add_argument_group("onnx networks").add_argument
    text = "size that frames are stretched to (default: the network's own, else 368x432)"
    add("--input-size", type=image_size, metavar="HxW", help=text)
    add("--onnx-layout", choices=("auto", "nhwc", "nchw"), default="auto", help="input's axes; auto: by its shape")
    orders = ("auto", "heatmaps-pafs", "pafs-heatmaps")
    text = "order of the maps in an output that holds both; auto looks for the background's heatmap in a trial run"
    add("--onnx-order", choices=orders, default="auto", help=text)
    add("--onnx-channels", choices=("bgr", "rgb"), default="bgr", help="order of the colours")
    text = "taken from the pixel values 0..255, in the order of --onnx-channels (default: 127.5)"
    add("--onnx-mean", type=numbers, metavar="M[,M,M]", default=(127.5,), help=text)
    text = "what the values are then divided by (default: 127.5)"
    add("--onnx-std", type=numbers, metavar="S[,S,S]", default=(127.5,), help=text)


def estimator_from_arguments(args: argparse.Namespace, like: Mapping | None = None) -> Estimator:
    """The estimator that the options of `add_estimator_arguments` describe; raises `UserError`.

    What they leave open is as in `like`, the settings of the estimator that found others' people.
    """
    like = like or {}
    model = args.model or (like.get("model") if like.get("model") in MODELS else MODELS[0])
    side = (like.get("rcnn_side") or TORCHVISION_SIDE) if like.get("model") == "keypointrcnn" else RCNN_SIDE
    own: dict[str, Any] = {"rtmpose_mode": args.rtmpose_mode or like.get("rtmpose_mode") or RTMPOSE_MODE}
    own["rcnn_side"] = args.rcnn_side or side
    onnx_options = {name: getattr(args, f"onnx_{name}") for name in ("layout", "order", "channels", "mean", "std")}
    onnx_options["input_size"] = args.input_size
    return make_estimator(model, args.pose_weights, args.device, args.amp, **own, **onnx_options)


def make_estimator(
    model: str,
    weights: str | Path | None = None,
    device: str = "auto",
    amp: bool = True,
    *,
    rtmpose_mode: str = RTMPOSE_MODE,
    rcnn_side: int = RCNN_SIDE,
    **onnx_options: Any,
) -> Estimator:
    """Make an estimator of one of `MODELS`; without `weights`, those of all but `onnx` are downloaded.

    `amp` allows float16 on cuda. `onnx_options` are those of `pose.onnx_network.load_network`.
    Raises `UserError` if weights, device or a library are missing, or if the weights do not fit.
    """
    if weights is None and model == "onnx":
        raise UserError("--model onnx needs its weights: give --pose-weights FILE, or --model rtmpose")
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"{weights}: no such file; give existing weights with --pose-weights FILE")
    if str(weights).endswith(".onnx") and model != "onnx":
        raise UserError(f"{weights}: this is an ONNX network, and the model is {model}; give --model onnx with it")
    if weights is not None and model == "rtmpose":
        hint = "it has weights of its own; say whose these are with --model openpose, or keypointrcnn"
        raise UserError(f"--pose-weights {weights}: not for --model rtmpose, {hint}")
    if onnx_options.get("input_size") and model != "onnx":
        raise UserError("--input-size is an option of --model onnx alone")
    if model == "rtmpose":
        from pose.coco import load_rtmpose

        prepare, infer, described = load_rtmpose(rtmpose_mode, device)
        return Estimator(prepare, infer, group_rtmpose, {"model": model} | described)
    settings = {"model": model, "weights": file_hash(Path(weights)) if weights else "torchvision's default"}
    if model == "onnx":
        from pose.onnx_network import load_network

        prepare, infer, described = load_network(weights, device, **onnx_options)
        return Estimator(prepare, infer, group_maps, settings | described)
    return _torch_estimator(model, weights, device, amp, rcnn_side, settings)


def _torch_estimator(
    model: str, weights: str | Path | None, device: str, amp: bool, side: int, settings: dict
) -> Estimator:
    import torch

    from pose.openpose import SHA256, load_openpose
    from utils import pick_device

    device = pick_device(device)
    if device.type == "cuda":
        # The same frames give the same people, whatever ran before.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if model == "openpose":
        network, forward, group = load_openpose(weights), _openpose_forward, group_maps
        settings = settings if weights else settings | {"weights": SHA256}
    else:
        network, forward, group = _load_keypointrcnn(weights, side), _keypointrcnn_forward, group_keypointrcnn
        # None as in the settings of poses made before there was a choice.
        settings = settings | {"rcnn_side": None if side == TORCHVISION_SIDE else side}
    network = network.to(device)
    cast = partial(torch.autocast, "cuda", torch.float16) if amp and device.type == "cuda" else contextlib.nullcontext

    def infer(frames: Sequence):
        with torch.inference_mode(), cast():
            return forward(network, torch.from_numpy(np.stack(frames)).to(device))

    return Estimator(np.ascontiguousarray, infer, group, settings)


def _openpose_forward(network: Callable, frames: Any) -> list[tuple[np.ndarray, ...]]:
    from pose.openpose import preprocess

    images, (height, width) = preprocess(frames)
    pafs, heatmaps = (maps.float().permute(0, 2, 3, 1).cpu().numpy() for maps in network(images))
    covered = np.array([height / images.shape[-2], width / images.shape[-1]])
    return [(*maps, covered) for maps in zip(heatmaps, pafs, strict=True)]


def _keypointrcnn_forward(network: Callable, frames: Any) -> list[tuple[np.ndarray, ...]]:
    images = [frame.permute(2, 0, 1).float() / 255 for frame in frames]
    names = ("scores", "keypoints", "keypoints_scores")
    return [tuple(found[name].float().cpu().numpy() for name in names) for found in network(images)]


def _load_keypointrcnn(path: str | Path | None, side: int):
    from torchvision.models.detection import KeypointRCNN, KeypointRCNN_ResNet50_FPN_Weights
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    from common.download import download
    from network import load_strictly, read_weights

    if path is None:
        url = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT.url
        path = download(url, "get that file elsewhere and give it with --pose-weights FILE, or use --model rtmpose")
    _, state = read_weights(path)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    network = KeypointRCNN(backbone, 2, side, num_keypoints=len(COCO_PARTS), box_score_thresh=BOX_SCORE)
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    load_strictly(network, state, path)
    for module in backbone.modules():
        if hasattr(module, "eps"):
            module.eps = 0.0  # the published weights were trained without it
    return network.eval().requires_grad_(False)


# ---- from a network's outputs to people ----


def group_maps(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from heatmaps (H, W, 19), PAFs (H, W, 38) and, optionally, the (height, width) in [0, 1] that the
    frame covers of them: the rest is padding on the right and below. Raises `UserError` if not finite.
    """
    try:
        people = group_people(*raw[:2])
    except ValueError as error:
        raise UserError(f"the pose network's output is of no use: {error}; try --no-amp, or other weights") from None
    if len(raw) > 2:
        people[..., :2] = np.minimum(people[..., :2] / raw[2][::-1].astype(np.float32), 1)
    return people
