"""Optical flow between frames, and its form on disk: grey images of u and v, −20 to 20 pixels as 0 to 255."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from torch.nn import functional as F
from torchvision.models import optical_flow as raft

from common.cli import UserError
from common.download import download

BOUND = 20  # pixels; what moves farther is taken to move so far
BATCH = 8  # pairs of frames that go through a network together
LEAST_SIDE = 128  # of what RAFT takes
METHODS = ("dis", "farneback", "tvl1", "raft", "raft-small")

# From the first and the second frames of pairs, uint8 RGB (H, W, 3), to their flows, float32 (H, W, 2): u to the right,
# v downwards, in pixels.
Method = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Iterable[np.ndarray]]


@functools.cache
def flow_method(name: str, device: torch.device | None = None, weights: Path | None = None) -> Method:
    """One of `METHODS`; RAFT computes on `device`, with torchvision's weights or those of a file.

    dis: dense inverse search (arXiv 1603.03590). farneback: polynomial expansion (Farnebäck 2003). tvl1: duality-based
    TV-L1 (Zach et al. 2007), which Two-Stream Networks' successors use. raft: recurrent all-pairs field transforms
    (arXiv 2003.12039). Raises `UserError` if what it needs is missing.
    """
    if name.startswith("raft"):
        return _raft(name, device or torch.device("cpu"), weights)
    try:
        import cv2
    except ImportError:
        raise UserError(f"optical flow by {name} needs OpenCV: pip install opencv-python-headless") from None
    cv2.setNumThreads(1)  # results of DIS depend on the number; videos are done in parallel
    if name == "dis":

        def calculate(first: np.ndarray, second: np.ndarray, flow: None) -> np.ndarray:
            # An object for each call, for they do not bear several threads.
            return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, flow)
    elif name == "farneback":

        def calculate(first: np.ndarray, second: np.ndarray, flow: None) -> np.ndarray:
            return cv2.calcOpticalFlowFarneback(first, second, flow, 0.5, 5, 15, 3, 5, 1.1, 0)
    else:
        if not hasattr(cv2, "optflow"):
            extra = "pip install opencv-contrib-python-headless"
            raise UserError(f"optical flow by tvl1 needs OpenCV's extra modules: {extra}")
        calculate = cv2.optflow.DualTVL1OpticalFlow_create().calc

    def flows(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for pair in zip(firsts, seconds, strict=True):
            first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair)
            yield calculate(first, second, None)

    return flows


def _raft(name: str, device: torch.device, weights: Path | None) -> Method:
    size = "small" if name == "raft-small" else "large"
    url = getattr(raft, f"Raft_{size.title()}_Weights").DEFAULT.url
    path = weights or download(url, "download it elsewhere and give it with --weights FILE, or choose another --method")
    network = getattr(raft, f"raft_{size}")(weights=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many types on other files
        raise UserError(f"{path}: holds no weights of torchvision's raft_{size} ({str(error)[:80]})") from None
    network.eval().to(device)

    @torch.inference_mode()
    def flows(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> np.ndarray:
        height, width = firsts[0].shape[:2]
        # Sides of the network's input are multiples of 8.
        more = [max(LEAST_SIDE, -(-side // 8) * 8) - side for side in (width, height)]
        images = [torch.from_numpy(np.stack(part)).to(device).permute(0, 3, 1, 2) for part in (firsts, seconds)]
        inputs = [F.pad(image / 127.5 - 1, (0, more[0], 0, more[1]), mode="replicate") for image in images]
        return network(*inputs)[-1][:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()

    return flows


# ---- images ----


def flow_images(frames: Iterable[np.ndarray], method: Method) -> Iterator[np.ndarray]:
    """The flow from each frame, uint8 RGB (H, W, 3), to the next one as `encode_flow` makes it.

    The last image repeats the one before; a single frame does not move. Raises `UserError` if sizes of frames differ.
    """
    image, frames = None, iter(frames)
    for first in frames:
        pairs = pairwise(_same_size(first, frames))
        while batch := list(islice(pairs, BATCH)):
            for flow in method(*zip(*batch, strict=True)):
                image = encode_flow(flow)
                yield image
        yield encode_flow(np.zeros((*first.shape[:2], 2))) if image is None else image


def _same_size(first: np.ndarray, others: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    for frame in others:
        if frame.shape != first.shape:
            sizes = (f"{shape[1]}x{shape[0]}" for shape in (first.shape, frame.shape))
            raise UserError(f"its frames change from {' to '.join(sizes)} pixels, and flow needs one size")
        yield frame


def encode_flow(flow: np.ndarray) -> np.ndarray:
    """Pixels, clipped to ±20, as uint8: 0 becomes 128."""
    return np.floor((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND)) + 0.5).astype(np.uint8)


def decode_flow(images: np.ndarray) -> np.ndarray:
    """Pixels, float32, of what `encode_flow` made, within 0.08."""
    return images.astype(np.float32) * (2 * BOUND / 255) - BOUND


def flow_colors(flow: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), of pixels (H, W, 2): the hue is the direction, the colour's strength the length.

    Right is red, down yellow-green, left cyan, up violet; the full colour is the flow's 99th percentile, 2 pixels at
    least.
    """
    length = np.linalg.norm(flow, axis=2)
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    strength = np.clip(length / max(np.percentile(length, 99), 2), 0, 1)
    return np.round(hsv_to_rgb(np.stack([hue, strength, np.ones_like(hue)], 2)) * 255).astype(np.uint8)
