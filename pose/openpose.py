"""The VGG-19 network of Cao et al. (arXiv 1611.08050), which gives part heatmaps and part affinity fields."""

import math
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from network import load_strictly, read_state_dict
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS

STRIDE = 8
SHORT_SIDE = 368
STAGES = 6
FEATURES = 128
_VGG = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 256, FEATURES)


def _layers(in_channels: int, layers: list[tuple[int, int] | str]) -> nn.Sequential:
    """A convolution and a ReLU for each (out channels, kernel), a pooling for each "pool"."""
    modules = []
    for layer in layers:
        if layer == "pool":
            modules.append(nn.MaxPool2d(2))
        else:
            out_channels, kernel = layer
            modules += [nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
            in_channels = out_channels
    return nn.Sequential(*modules)


class OpenPose(nn.Module):
    """Ten layers of VGG-19 and two more, then six stages of two branches, PAFs and heatmaps.

    Each stage after the first sees both maps of the one before it beside the features. The names of the
    modules are those of the weights in circulation (`model0.0.weight`, `model1_1.0.weight`, …).
    """

    def __init__(self):
        super().__init__()
        self.model0 = _layers(3, [layer if layer == "pool" else (layer, 3) for layer in _VGG])
        seen = FEATURES + NUM_PAFS + NUM_HEATMAPS
        for stage in range(1, STAGES + 1):
            for branch, channels in ((1, NUM_PAFS), (2, NUM_HEATMAPS)):
                layers = [(128, 3)] * 3 + [(512, 1)] if stage == 1 else [(128, 7)] * 5 + [(128, 1)]
                branch_layers = _layers(FEATURES if stage == 1 else seen, [*layers, (channels, 1)])
                self.add_module(f"model{stage}_{branch}", branch_layers[:-1])  # no ReLU on the maps

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) as `preprocess` makes them to (PAFs (B, 38, H/8, W/8), heatmaps (B, 19, …))."""
        features = self.model0(images)
        seen = features
        for stage in range(1, STAGES + 1):
            pafs = self.get_submodule(f"model{stage}_1")(seen)
            heatmaps = self.get_submodule(f"model{stage}_2")(seen)
            seen = torch.cat((pafs, heatmaps, features), dim=1)
        return pafs, heatmaps


def load_openpose(path: str | os.PathLike) -> OpenPose:
    """The network in evaluation mode with the weights of a .pth or .safetensors file; raises `UserError`."""
    state = {name.removeprefix("module."): tensor for name, tensor in read_state_dict(path).items()}
    with torch.device("meta"):
        network = OpenPose()
    network.to_empty(device="cpu")
    load_strictly(network, state, path)
    return network.eval().requires_grad_(False)


def preprocess(frames: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """RGB frames, uint8 (…, H, W, 3) of one size, to the network's input and the size of its valid part.

    The frames are scaled to a short side of 368 (bilinear, without antialiasing, rounded to bytes), put in the
    order B, G, R, mapped by x/256 - 0.5, and padded with -0.5 (black) on the right and below to multiples of 8.
    Returns float32 (…, 3, h, w) on the frames' device and the (height, width) that the frame takes of h and w.
    """
    frames = torch.as_tensor(frames)
    *batch, height, width, _ = frames.shape
    images = frames.reshape(-1, height, width, 3).permute(0, 3, 1, 2)
    scale = SHORT_SIDE / min(height, width)
    valid = round(height * scale), round(width * scale)
    if valid != (height, width):
        if images.device.type != "cpu":
            images = images.float()
        images = F.interpolate(images, valid, mode="bilinear", align_corners=False)
        if images.is_floating_point():
            images = images.round()
    padded = [math.ceil(length / STRIDE) * STRIDE for length in valid]
    result = torch.full((len(images), 3, *padded), -0.5, device=images.device)
    result[:, :, : valid[0], : valid[1]] = images.flip(1).float() / 256 - 0.5
    return result.reshape(*batch, 3, *padded), valid
