"""torchvision's ResNet with any number of input channels and classes, and the weights that go into it."""

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from common.cli import UserError
from common.download import download
from utils import load_checkpoint, load_safetensors, memory_format

CPU = torch.device("cpu")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# The original code named its two replaced layers so.
CUSTOM_NAMES = {"conv1_custom.": "conv1.", "fc_custom.": "fc."}


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, …); a single value a channel, which has no variance, takes the running statistics."""

    def _check_input_dim(self, values: torch.Tensor) -> None:
        pass

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(N, C, …) normalised."""
        if values.numel() > values.shape[1]:
            return super().forward(values)
        return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def build_network(arch: str, in_channels: int, classes: int) -> models.ResNet:
    """A randomly initialised ResNet: (N, in_channels, H, W) → logits (N, classes).

    It is torchvision's, so its parameters have torchvision's names, and its adaptive average pooling takes
    any image of at least 32×32. Raises `UserError` for an unknown `arch`.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHITECTURES)}")
    network = models.get_model(arch, weights=None, num_classes=classes, norm_layer=BatchNorm)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def add_dropout(network: models.ResNet, probability: float) -> None:
    """Drop features before the classifier in training (TSN, arXiv 1608.00859); the names of the weights stay."""
    network.fc.register_forward_pre_hook(lambda module, inputs: F.dropout(inputs[0], probability, module.training))


def cross_modality_filters(rgb: torch.Tensor, in_channels: int) -> torch.Tensor:
    """First-convolution filters for another modality (TSN, arXiv 1608.00859): (64, 3, 7, 7) → (64, C, 7, 7).

    The mean over the three RGB channels is copied to every one of `in_channels` channels.
    """
    return rgb.float().mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)


def load_starting_weights(network: models.ResNet, arch: str, weights: str, freeze_bn: str = "none") -> None:
    """Start `network` from ImageNet, all layers but the classifier, which stays random.

    `weights` is `imagenet` (downloaded once by torchvision), `none`, or a file with the state dict of a network of
    this `arch` (.pth, .safetensors). RGB networks take the first convolution as it is, others through
    `cross_modality_filters`. Raises `UserError` if the download fails or the file does not fit.
    """
    if weights == "none":
        return
    if weights == "imagenet" and arch not in ARCHITECTURES:
        raise UserError(f"--weights imagenet: there are none of {arch}; give none, or a checkpoint of this stream")
    source = f"ImageNet weights of {arch}" if weights == "imagenet" else weights
    state = imagenet_state_dict(arch) if weights == "imagenet" else read_state_dict(weights)
    state = {name: tensor for name, tensor in torchvision_names(state).items() if not name.startswith("fc.")}
    first = state.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[1] == 3 != network.conv1.in_channels:
        if freeze_bn == "all":
            raise UserError(
                "--freeze-bn all: batch norm's statistics are those of RGB images, but the first convolution sees "
                "others; take --freeze-bn partial"
            )
        state["conv1.weight"] = cross_modality_filters(first, network.conv1.in_channels)
    fresh = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("fc.")}
    load_strictly(network, state | fresh, source)


def imagenet_state_dict(arch: str) -> dict[str, torch.Tensor]:
    """torchvision's default ImageNet weights; raises `UserError` if they cannot be downloaded."""
    remedy = "give ImageNet weights as a file with --weights FILE, or start from random ones with --weights none"
    return read_state_dict(download(models.get_model_weights(arch).DEFAULT.url, remedy))


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a .pth file holding a state dict or a dict with `state_dict`.

    Nothing but tensors and plain values is constructed. Raises `UserError` otherwise.
    """
    content = load_safetensors(path) if str(path).endswith(".safetensors") else load_checkpoint(path)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds no state dict of a network")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: {name!r} is no tensor, so this is no state dict of a network")
    return dict(state)


def torchvision_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under torchvision's names.

    Drops the `module.` of data-parallel wrappers and maps the original code's `conv1_custom` and
    `fc_custom`. Raises `UserError` if two names become one.
    """
    renamed = {}
    for name, tensor in state.items():
        plain = name.removeprefix("module.")
        for custom, standard in CUSTOM_NAMES.items():
            if plain.startswith(custom):
                plain = standard + plain.removeprefix(custom)
        if plain in renamed:
            raise UserError(f"the weights hold {plain!r} twice, the second time as {name!r}")
        renamed[plain] = tensor
    return renamed


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load `state` into `network`; a missing, unknown or misshapen entry is a `UserError` naming it."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source}: does not fit the network: {'; '.join(problems[:3])}{more}")
    network.load_state_dict(dict(state))


def describe_state_dict(state: Mapping[str, torch.Tensor], source: str | os.PathLike) -> tuple[str, int, int]:
    """(arch, in_channels, classes) of a ResNet's state dict in torchvision's names.

    Raises `UserError` if it is not one of `ARCHITECTURES`.
    """
    blocks = [len({n.split(".")[1] for n in state if n.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)]
    known: dict[tuple[int, ...], str] = {
        (False, 2, 2, 2, 2): "resnet18",
        (False, 3, 4, 6, 3): "resnet34",
        (True, 3, 4, 6, 3): "resnet50",
        (True, 3, 4, 23, 3): "resnet101",
        (True, 3, 8, 36, 3): "resnet152",
    }
    arch = known.get(("layer1.0.conv3.weight" in state, *blocks))
    first, last = state.get("conv1.weight"), state.get("fc.weight")
    if arch is None or first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise UserError(f"{source}: its weights are not those of a ResNet-18, 34, 50, 101 or 152")
    return arch, first.shape[1], last.shape[0]


class Family(NamedTuple):
    """Networks of one kind: their names, how one is built, and what tells one from its state dict.

    `build(arch, in_channels, classes)` makes a random one, with the classifier `fc`; `describe(state, source)` returns
    (arch, in_channels, classes) or raises `UserError`.
    """

    architectures: tuple[str, ...]
    build: Callable[[str, int, int], nn.Module]
    describe: Callable[[Mapping[str, torch.Tensor], str | os.PathLike], tuple[str, int, int]]


RESNETS = Family(ARCHITECTURES, build_network, describe_state_dict)


def for_testing(network: nn.Module, device: torch.device = CPU) -> nn.Module:
    """A copy on `device` in evaluation mode, with batch norm folded into a ResNet's convolutions.

    Folding changes float rounding only: logits agree within 1e-4 or so.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        names = dict(module.named_children())
        for name in [name for name in names if name.startswith("bn")]:
            _fold(module, "conv" + name[2:], name)
        if isinstance(names.get("downsample"), nn.Sequential):
            _fold(names["downsample"], "0", "1")
    return network.to(device).to(memory_format=memory_format(device))


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, norm))
    setattr(parent, conv, fused)
    setattr(parent, norm, nn.Identity())


@dataclass
class Model:
    """A network with what describes it: its architecture, the side of its input in pixels, and its classes.

    `image_size` is None where the input is no image, `classes` where a checkpoint does not name them. `checkpoint` is
    what `read_model` read, empty for a network that starts anew; `path` is the file.
    """

    network: nn.Module
    arch: str
    image_size: int | None
    classes: list[str] | None
    checkpoint: dict = field(default_factory=dict)
    path: str | os.PathLike | None = None

    @property
    def device(self) -> torch.device:
        """Where the network takes its input."""
        return next((parameter.device for parameter in self.network.parameters()), CPU)


def read_weights(path: str | os.PathLike) -> tuple[dict, dict[str, torch.Tensor]]:
    """A checkpoint, and its weights in torchvision's names; raises `UserError` if the file is none."""
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: has no state_dict, so it is no checkpoint of a stream; give one that training wrote")
    return checkpoint, torchvision_names(state)


def read_model(path: str | os.PathLike, in_channels: int, family: Family = RESNETS) -> Model:
    """The network of a checkpoint, written by this code or the original's, on the CPU.

    Raises `UserError` if the file is no checkpoint, or if its network is not of `family` or does not take
    `in_channels`.
    """
    checkpoint, state = read_weights(path)
    if checkpoint.get("arch", family.architectures[0]) not in family.architectures:
        raise UserError(
            f"{path}: its network is a {checkpoint['arch']}, this stream's are {', '.join(family.architectures)}; give "
            "a checkpoint of this stream"
        )
    arch, channels, count = family.describe(state, path)
    if channels != in_channels:
        raise UserError(
            f"{path}: its network takes {channels} input channels, this stream has {in_channels}; give a checkpoint "
            "of this stream"
        )
    classes = checkpoint.get("classes")
    if classes is not None and len(classes) != count:
        raise UserError(f"{path}: names {len(classes)} classes, but its network has {count}; it is damaged")
    network = family.build(arch, channels, count)
    load_strictly(network, state, path)
    size = (checkpoint.get("image_size") or 224) if family is RESNETS else None
    return Model(network, arch, size, classes, checkpoint, path)
