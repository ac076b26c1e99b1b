"""Networks on images, torchvision's ResNets and timm's, of any number of input channels and classes, and weights."""

import copy
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from common.cli import UserError
from common.download import download
from utils import load_checkpoint, load_safetensors, memory_format

CPU = torch.device("cpu")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's; other names are timm's
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, …); a single value a channel, which has no variance, takes the running statistics."""

    def _check_input_dim(self, values: torch.Tensor) -> None:
        pass

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(N, C, …) normalised."""
        if values.numel() > values.shape[1]:
            return super().forward(values)
        return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class _TrainsInFloat32(nn.Module):
    """A convolution that trains in float32 on processors: depthwise ones take far longer there in bfloat16."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The convolution's output, in the type of `values`."""
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        with torch.autocast("cpu", enabled=False):
            return super().forward(values.float()).to(values.dtype)


# ---- architectures ----


def build_network(arch: str, in_channels: int, classes: int, image_size: int | None = 224) -> nn.Module:
    """A randomly initialised network: (N, in_channels, H, W) → logits (N, classes).

    `image_size` matters to networks of a fixed input size, as most of timm's vision transformers are.
    """
    if arch not in ARCHITECTURES:
        return _timm_network(arch, classes, image_size, in_chans=in_channels)
    network = models.get_model(arch, weights=None, num_classes=classes, norm_layer=BatchNorm)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def _timm_with(arch: str) -> ModuleType:
    """The module timm, which must have a network of that name."""
    try:
        import timm
    except ImportError:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"--arch {arch}: all networks but {known} come from timm: pip install timm") from None
    if not timm.is_model(arch):
        near = ", ".join(get_close_matches(arch, (*ARCHITECTURES, *timm.list_models()), 3))
        hint = f"did you mean {near}?" if near else "timm.list_models() names them"
        raise UserError(f"--arch {arch}: neither torchvision's nor timm's; {hint}")
    return timm


def _timm_network(arch: str, classes: int, image_size: int | None, **options: object) -> nn.Module:
    timm = _timm_with(arch)
    if timm.get_pretrained_cfg(arch).fixed_input_size:
        options["img_size"] = image_size
    network = timm.create_model(arch, num_classes=classes, **options)
    if not all(isinstance(network.pretrained_cfg.get(layer), str) for layer in ("first_conv", "classifier")):
        raise UserError(f"--arch {arch}: has not one first convolution and one classifier; choose another network")
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.__class__ = type("Depthwise", (_TrainsInFloat32, type(module)), {})
    return network


def rgb_statistics(arch: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB values in [0, 1] that the ImageNet weights of `arch` were trained with."""
    if arch in ARCHITECTURES:
        return IMAGENET_MEAN, IMAGENET_STD
    config = _timm_with(arch).get_pretrained_cfg(arch)
    return tuple(config.mean), tuple(config.std)


def _layer(network: nn.Module, which: str) -> str:
    """The name of the `first_conv` or the `classifier`: as timm tells, or a ResNet's."""
    return getattr(network, "pretrained_cfg", {"first_conv": "conv1", "classifier": "fc"})[which]


def classifier(network: nn.Module) -> nn.Linear:
    """The last layer of a network, from features to logits."""
    return network.get_submodule(_layer(network, "classifier"))  # type: ignore[return-value]


def without_classifier(network: nn.Module) -> nn.Module:
    """A copy of the network that returns what its classifier sees: (N, D)."""
    network = copy.deepcopy(network)
    network.set_submodule(_layer(network, "classifier"), nn.Identity())
    return network


def add_dropout(network: nn.Module, probability: float) -> None:
    """Drop features before the classifier in training (TSN, arXiv 1608.00859); the names of the weights stay."""
    drop = lambda module, inputs: F.dropout(inputs[0], probability, module.training)  # noqa: E731
    classifier(network).register_forward_pre_hook(drop)


# ---- weights ----


def cross_modality_filters(rgb: torch.Tensor, in_channels: int) -> torch.Tensor:
    """The mean over RGB for each of `in_channels` (TSN, arXiv 1608.00859): filters (64, 3, 7, 7) → (64, C, 7, 7)."""
    return rgb.float().mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)


def load_starting_weights(
    network: nn.Module, arch: str, weights: str, image_size: int | None = 224, freeze_bn: str = "none"
) -> None:
    """Start `network` from ImageNet, all layers but the classifier, which stays random.

    `weights` is `imagenet` (downloaded once by torchvision or timm), `none`, or a file with the state dict of a network
    of this `arch` (.pth, .safetensors). RGB networks take the first convolution as it is, others through
    `cross_modality_filters`.
    """
    if weights == "none":
        return
    source = f"ImageNet weights of {arch}" if weights == "imagenet" else weights
    state = imagenet_state_dict(arch, image_size) if weights == "imagenet" else read_weights(weights)[1]
    last, first = _layer(network, "classifier") + ".", _layer(network, "first_conv") + ".weight"
    own = network.state_dict()
    if first in state and state[first].ndim == 4 and state[first].shape[1] == 3 != own[first].shape[1]:
        if freeze_bn == "all":
            raise UserError(
                "--freeze-bn all: batch norm's statistics are those of RGB images, but the first convolution sees "
                "others; take --freeze-bn partial"
            )
        state[first] = cross_modality_filters(state[first], own[first].shape[1])
    state = {name: tensor for name, tensor in state.items() if not name.startswith(last)}
    load_strictly(network, state | {name: own[name] for name in own if name.startswith(last)}, source)


def start_classifier(network: nn.Module) -> None:
    """Weights of the classifier on starting weights: next to 0, as TSN's (arXiv 1608.00859).

    Large logits, such as those of timm's EfficientNets, are undone by the first steps, which spoil the features.
    """
    nn.init.normal_(classifier(network).weight, std=0.001)
    nn.init.zeros_(classifier(network).bias)


def imagenet_state_dict(arch: str, image_size: int | None = 224) -> dict[str, torch.Tensor]:
    """torchvision's default ImageNet weights of a ResNet, else timm's; downloaded once."""
    remedy = "give ImageNet weights as a file with --weights FILE, or start from random ones with --weights none"
    if arch in ARCHITECTURES:
        return read_weights(download(models.get_model_weights(arch).DEFAULT.url, remedy))[1]
    try:
        return _timm_network(arch, 1, image_size, pretrained=True).state_dict()
    except UserError:
        raise
    except Exception as error:  # of the hub's client, which has many
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"ImageNet weights of {arch}: timm cannot get them ({reason}); {remedy}") from None


def read_weights(path: str | os.PathLike) -> tuple[dict, dict[str, torch.Tensor]]:
    """A checkpoint with its `state_dict`, or a bare state dict (.pth, .safetensors), and its weights.

    They have torchvision's names. Nothing but tensors and plain values is constructed.
    """
    content = load_safetensors(path) if str(path).endswith(".safetensors") else load_checkpoint(path)
    checkpoint = content if "state_dict" in content else {"state_dict": content}
    state = checkpoint["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path}: holds no state dict of a network; give a checkpoint that training wrote")
    return checkpoint, torchvision_names(state)


def torchvision_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors without the prefixes of data-parallel and compiled networks, and the original's `_custom`."""
    plain = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in state.items()}
    return {re.sub(r"^(conv1|fc)_custom\.", r"\1.", name): tensor for name, tensor in plain.items()}


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], source: str | os.PathLike) -> None:
    """Load `state` into `network`; a missing, unknown or misshapen entry is a `UserError` naming it."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"{name} is missing" for name in expected if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in expected]
    problems += [
        f"{name} has shape {given[name]} instead of {shape}"
        for name, shape in expected.items()
        if given.get(name, shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source}: does not fit the network: {'; '.join(problems[:3])}{more}")
    network.load_state_dict(dict(state))


# ---- networks with what describes them ----


class Family(NamedTuple):
    """Networks that a stream can have, and `build(arch, in_channels, classes, image_size)`."""

    architectures: tuple[str, ...]  # the default first
    build: Callable[[str, int, int, int | None], nn.Module]
    images: bool = False  # they take images, which have a size, and any of timm's networks will do


IMAGE_NETWORKS = Family(ARCHITECTURES, build_network, images=True)


def for_testing(network: nn.Module, device: torch.device = CPU) -> nn.Module:
    """A copy on `device` in evaluation mode, with batch norm folded into a ResNet's convolutions (but for rounding)."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()) if isinstance(network, models.ResNet) else ():
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
    """A network with what describes it."""

    network: nn.Module
    arch: str
    image_size: int | None  # side of the input in pixels; None where it is no image
    classes: list[str] | None  # None where a checkpoint does not name them
    checkpoint: dict = field(default_factory=dict)  # that it was read from
    path: str | os.PathLike | None = None

    @property
    def device(self) -> torch.device:
        """Where the network takes its input."""
        return next((parameter.device for parameter in self.network.parameters()), CPU)


def read_model(path: str | os.PathLike, in_channels: int, family: Family = IMAGE_NETWORKS) -> Model:
    """The network of a checkpoint, written by this code or the original's (a ResNet-18), on the CPU."""
    checkpoint, state = read_weights(path)
    arch, channels = checkpoint.get("arch", family.architectures[0]), trained_channels(checkpoint, state)
    if channels != in_channels or not (family.images or arch in family.architectures):
        given = f"its network, a {arch}, takes {channels} input channels"
        raise UserError(f"{path}: {given}, this stream's take {in_channels}; give a checkpoint of this stream")
    classes, size = checkpoint.get("classes"), (checkpoint.get("image_size") or 224) if family.images else None
    count = len(classes if classes is not None else state.get("fc.weight", ()))
    network = family.build(arch, channels, count, size)
    load_strictly(network, state, path)
    return Model(network, arch, size, classes, checkpoint, path)


def trained_channels(checkpoint: Mapping, state: Mapping[str, torch.Tensor]) -> int:
    """How many input channels the network of a checkpoint takes; the original's tells by its first convolution."""
    return checkpoint.get("in_channels") or state.get("conv1.weight", torch.zeros(1, 0)).shape[1]
