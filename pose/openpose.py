"""The VGG-19 network of Cao et al. (arXiv 1611.08050), which gives part heatmaps and part affinity fields."""

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.download import download
from network import load_strictly, read_weights
from pose.skeleton import NUM_HEATMAPS, NUM_PAFS

STRIDE = 8
SHORT_SIDE = 368
STAGES = 6
FEATURES = 128
_VGG = (64, 64, None, 128, 128, None, 256, 256, 256, 256, None, 512, 512, 256, FEATURES)  # None: a pooling
_CAFFE_VGG = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4"),
    *("conv4_1", "conv4_2", "conv4_3_CPM", "conv4_4_CPM"),
)
URL = "https://huggingface.co/lllyasviel/Annotators/resolve/main/body_pose_model.pth"
SHA256 = "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746"
NOTICE = "these weights are CMU's (OpenPose): for academic or non-profit, non-commercial research only"
REMEDY = "get that file elsewhere and give it with --pose-weights FILE, or use --model rtmpose"


def _layers(in_channels: int, layers: Sequence[tuple[int, int] | None]) -> nn.Sequential:
    """A convolution and a ReLU for each (out channels, kernel), a pooling for each None."""
    modules: list[nn.Module] = []
    for layer in layers:
        if layer is None:
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

    def __init__(self) -> None:
        super().__init__()
        self.model0 = _layers(3, [(channels, 3) if channels else None for channels in _VGG])
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


def caffe_names(network: OpenPose) -> dict[str, str]:
    """The names of `network`'s convolutions by those in the Caffe model: {"conv1_1": "model0.0", …}."""
    first = [f"conv5_{number}_CPM_L{branch}" for branch in (1, 2) for number in range(1, 6)]
    stages = [(stage, branch) for stage in range(2, STAGES + 1) for branch in (1, 2)]
    later = [f"Mconv{number}_stage{stage}_L{branch}" for stage, branch in stages for number in range(1, 8)]
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return dict(zip((*_CAFFE_VGG, *first, *later), names, strict=True))


def load_openpose(path: str | os.PathLike | None = None) -> OpenPose:
    """The network in evaluation mode with the weights of a .pth or .safetensors file, or those that are downloaded.

    They are named as the network's modules or as the layers of the Caffe model.
    """
    path = path or download(URL, REMEDY, SHA256, NOTICE)
    _, state = read_weights(path)
    with torch.device("meta"):
        network = OpenPose()
    network.to_empty(device="cpu")
    known = caffe_names(network)
    split = ((name.rpartition("."), tensor) for name, tensor in state.items())
    state = {known.get(layer, layer) + dot + kind: tensor for (layer, dot, kind), tensor in split}
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
