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


# ---- architectures ----


def build_network(arch: str, in_channels: int, classes: int, image_size: int | None = 224) -> nn.Module:
    """A randomly initialised network: (N, in_channels, H, W) → logits (N, classes).

    The names in `ARCHITECTURES` are torchvision's ResNets, which take images of any size from 32×32; every other name
    is timm's. `image_size` matters to networks of a fixed input size, as most vision transformers are.
    """
    if arch not in ARCHITECTURES:
        return _timm_network(arch, classes, image_size, in_chans=in_channels)
    network = models.get_model(arch, weights=None, num_classes=classes, norm_layer=BatchNorm)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def check_architecture(arch: str) -> str:
    """The name itself, if it is torchvision's or timm's."""
    if arch not in ARCHITECTURES and not (timm := _import_timm(arch)).is_model(arch):
        near = get_close_matches(arch, (*ARCHITECTURES, *timm.list_models()), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them"
        raise UserError(f"--arch {arch}: neither torchvision's nor timm's; {hint}")
    return arch


def _import_timm(arch: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"--arch {arch}: all networks but {known} come from timm: pip install timm") from None
    return timm


def _timm_network(arch: str, classes: int, image_size: int | None, **options: object) -> nn.Module:
    timm = _import_timm(check_architecture(arch))
    if timm.get_pretrained_cfg(arch).fixed_input_size:
        options["img_size"] = image_size
    network = timm.create_model(arch, num_classes=classes, **options)
    if not all(isinstance(network.pretrained_cfg.get(layer), str) for layer in ("first_conv", "classifier")):
        raise UserError(f"--arch {arch}: has not one first convolution and one classifier; choose another network")
    return network


def rgb_statistics(arch: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB values in [0, 1] that the ImageNet weights of `arch` were trained with."""
    if arch in ARCHITECTURES:
        return IMAGENET_MEAN, IMAGENET_STD
    config = _import_timm(arch).get_pretrained_cfg(arch)
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


# ---- starting weights ----


def cross_modality_filters(rgb: torch.Tensor, in_channels: int) -> torch.Tensor:
    """First-convolution filters for another modality (TSN, arXiv 1608.00859): (64, 3, 7, 7) → (64, C, 7, 7).

    The mean over the three RGB channels is copied to every one of `in_channels` channels.
    """
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
    state = {name: tensor for name, tensor in state.items() if not name.startswith(last)}
    own = network.state_dict()
    if first in state and state[first].ndim == 4 and state[first].shape[1] == 3 != own[first].shape[1]:
        if freeze_bn == "all":
            raise UserError(
                "--freeze-bn all: batch norm's statistics are those of RGB images, but the first convolution sees "
                "others; take --freeze-bn partial"
            )
        state[first] = cross_modality_filters(state[first], own[first].shape[1])
    fresh = {name: tensor for name, tensor in own.items() if name.startswith(last)}
    load_strictly(network, state | fresh, source)


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
    """The same tensors under torchvision's names.

    Drops the `module.` of data-parallel wrappers and the `_orig_mod.` of compiled networks, and maps the original
    code's `conv1_custom` and `fc_custom`.
    """
    renamed = {}
    for name, tensor in state.items():
        plain = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
        for custom, standard in CUSTOM_NAMES.items():
            if plain.startswith(custom):
                plain = standard + plain.removeprefix(custom)
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


class Family(NamedTuple):
    """Networks that a stream can have: names, the default first, and `build(arch, in_channels, classes, image_size)`.

    `images`: they take images, which have a size, and any of timm's networks will do.
    """

    architectures: tuple[str, ...]
    build: Callable[[str, int, int, int | None], nn.Module]
    images: bool = False


IMAGE_NETWORKS = Family(ARCHITECTURES, build_network, images=True)


def for_testing(network: nn.Module, device: torch.device = CPU) -> nn.Module:
    """A copy on `device` in evaluation mode, with batch norm folded into a ResNet's convolutions.

    Folding changes float rounding only: logits agree within 1e-4 or so.
    """
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
