"""Optical flow between frames, and its form on disk: grey images of u and v, −20 to 20 pixels as 0 to 255."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models import optical_flow as raft

from common.cli import UserError
from common.download import download
from common.frames import check_size

BOUND = 20  # pixels; what moves farther is taken to move so far
BATCH = 8  # pairs of frames that go through a network together
LEAST_SIDE = 128  # of what RAFT takes
METHODS = ("dis", "raft")

# From the first and the second frames of pairs, uint8 RGB (H, W, 3), to their flows, float32 (H, W, 2): u to the right,
# v downwards, in pixels.
Method = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Iterable[np.ndarray]]


@functools.cache
def flow_method(name: str, device: torch.device | None = None, weights: Path | None = None) -> Method:
    """One of `METHODS`; RAFT computes on `device`, with torchvision's weights or those of a file.

    dis: dense inverse search (arXiv 1603.03590). raft: recurrent all-pairs field transforms (arXiv 2003.12039).
    """
    return _raft(device or torch.device("cpu"), weights) if name == "raft" else _dis


def _dis(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    cv2.setNumThreads(1)  # results depend on the number; videos are done in parallel
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # one a call: it does not bear threads
    for pair in zip(firsts, seconds, strict=True):
        yield method.calc(*(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair), None)


def _raft(device: torch.device, weights: Path | None) -> Method:
    url = raft.Raft_Large_Weights.DEFAULT.url
    path = weights or download(url, "download it elsewhere and give it with --weights FILE, or take --method dis")
    network = raft.raft_large(weights=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many types on other files
        raise UserError(f"{path}: holds no weights of torchvision's raft_large ({str(error)[:80]})") from None
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

    The last image repeats the one before; a single frame does not move. Refuses frames of different sizes.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    image, pairs = encode_flow(np.zeros((*first.shape[:2], 2))), pairwise(chain([first], frames))
    while batch := list(islice(pairs, BATCH)):
        for _, second in batch:
            check_size("a frame", second.shape[:2], first.shape[:2])
        for flow in method(*zip(*batch, strict=True)):
            image = encode_flow(flow)
            yield image
    yield image


def encode_flow(flow: np.ndarray) -> np.ndarray:
    """Pixels, clipped to ±20, as uint8: 0 becomes 128."""
    return np.floor((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND)) + 0.5).astype(np.uint8)
