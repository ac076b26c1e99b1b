"""ST-GCN++: a network on the skeletons of people, over their parts and over time."""

import torch
from torch import nn
from torch.nn import functional as F

from network import Family
from pose.skeleton import DRAWN_LIMBS, MIRROR, NUM_PARTS

# Of each block the channels and the stride in time. The large one is PYSKL's, with a third as many parts of an input.
_SMALL = ((48, 2), (96, 2), (96, 1))
STAGES = {
    "stgcnpp_views": _SMALL,
    "stgcnpp_ensemble": _SMALL,
    "stgcnpp_small": _SMALL,
    "stgcnpp": ((64, 1), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1)),
}
# Channels of `beside_the_trunk` that the networks of an ensemble see, the third of each the scores.
ENSEMBLES = {
    "stgcnpp_views": {"bones": (3, 4, 2, 7, 8), "both": tuple(range(11)), "all": tuple(range(15))},
    "stgcnpp_ensemble": {"joints": (0, 1, 2, 5, 6, 9, 10), "bones": (3, 4, 2, 7, 8), "both": tuple(range(11))},
}
TRUNK = (1, 2, 5, 8, 11)  # neck, shoulders, hips
MIRROR_SIGNS = (-1, 1, 1, -1, 1, -1, 1, -1, 1, -1, 1)  # of these channels, from left to right and back
DILATIONS = (1, 2, 3, 4)  # of the temporal convolutions of a block


def part_graph() -> torch.Tensor:
    """The skeleton as three adjacencies (3, 18, 18): each part itself, limbs towards the neck, limbs away from it.

    Columns sum up to 1 (or 0), so that a part gets the mean of its neighbours (ST-GCN, arXiv 1801.07455).
    """
    graph = torch.zeros(3, NUM_PARTS, NUM_PARTS)
    graph[0] = torch.eye(NUM_PARTS)
    for inner, outer in DRAWN_LIMBS:  # all point away from the neck
        graph[1, outer, inner] = graph[2, inner, outer] = 1
    return graph / graph.sum(1, keepdim=True).clamp(min=1)


class GraphBlock(nn.Module):
    """A block of ST-GCN++ (arXiv 2205.09443): a graph convolution, then temporal ones, each with a residual.

    The graph's weights are learned, starting from the skeleton's own (`part_graph`). In time six branches see a sixth
    of the channels each: four convolutions of width 3 and growing dilation, the maximum of 3, and the value itself.
    (N, in_channels, T, 18) → (N, channels, T / stride, 18).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.graph = nn.Parameter(part_graph())
        self.mix = nn.Conv2d(3 * in_channels, channels, 1)
        self.mix_norm = nn.BatchNorm2d(channels)
        self.mix_residual = _projection(in_channels, channels)
        width = channels // (len(DILATIONS) + 2)
        self.widths = [width] * (len(DILATIONS) + 1) + [channels - width * (len(DILATIONS) + 1)]
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.reduce_norm = nn.BatchNorm2d(channels - self.widths[-1])
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, (3, 1), (stride, 1), (dilation, 0), (dilation, 1)) for dilation in DILATIONS
        )
        self.branch_norm = nn.BatchNorm2d(channels)
        self.join = nn.Conv2d(channels, channels, 1)
        self.join_norm = nn.BatchNorm2d(channels)
        self.residual = _projection(in_channels, channels) if stride == 1 else _convolution(in_channels, channels)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block, see the class."""
        weights = self.graph.permute(2, 0, 1).reshape(1, -1, NUM_PARTS)  # from every part to every part
        # Neighbours' values beside each other in channels, so that one 1×1 convolution mixes and sums all three.
        gathered = weights.to(x.dtype) @ x.permute(0, 2, 3, 1).flatten(0, 1)  # (N * T, 18 * 3, C)
        gathered = gathered.view(-1, x.shape[2], NUM_PARTS, 3 * x.shape[1]).permute(0, 3, 1, 2)
        y = F.relu(self.mix_norm(self.mix(gathered)) + self.mix_residual(x))

        rest, weight, bias = y.shape[1] - self.widths[-1], self.reduce.weight, self.reduce.bias
        reduced = F.relu(self.reduce_norm(F.conv2d(y, weight[:rest], bias[:rest])))
        plain = F.conv2d(_every(self.stride, y), weight[rest:], bias[rest:])
        *parts, peaks = reduced.split(self.widths[:-1], 1)
        parts = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        peaks = F.max_pool2d(peaks, (3, 1), (self.stride, 1), (1, 0))
        y = self.join(F.relu(self.branch_norm(torch.cat([*parts, peaks, plain], 1))))
        # The stride is taken before the convolution: torch 2.14 crashes in the backward pass of strided 1×1 ones.
        return F.relu(self.join_norm(y) + self.residual(_every(self.stride, x)))


def _every(stride: int, x: torch.Tensor) -> torch.Tensor:
    """Every `stride`-th moment; the gradient is channels-last as `x`, as that of `x[:, :, ::stride]` would not be."""
    return x.permute(0, 2, 3, 1)[:, ::stride].permute(0, 3, 1, 2) if stride > 1 else x


def _projection(in_channels: int, channels: int) -> nn.Module:
    return nn.Identity() if in_channels == channels else _convolution(in_channels, channels)


def _convolution(in_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


class GraphNetwork(nn.Module):
    """ST-GCN++ (arXiv 2205.09443): (N, people, in_channels, T, 18) → logits (N, classes).

    Everyone goes through the blocks alone. The features are means over time and parts, and over the people who are
    there at all, that is, whose third channel, the scores, is not 0 throughout.
    """

    def __init__(self, stages: tuple, in_channels: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels * NUM_PARTS)
        channels = [in_channels, *(channels for channels, _ in stages)]
        self.blocks = nn.Sequential(
            *(GraphBlock(before, *stage) for before, stage in zip(channels, stages, strict=False))
        )
        self.fc = nn.Linear(channels[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of N clips, see the class."""
        present = x[:, :, 2].ne(0).flatten(2).any(2)
        present = present | ~present.any(1, keepdim=True)  # clips that show nobody have scores too
        clips, people, channels, frames, parts = x.shape
        x = x.flatten(0, 1).permute(0, 3, 1, 2).flatten(1, 2)  # (N * people, 18 * C, T)
        x = self.norm(x[present.flatten()]).view(-1, parts, channels, frames).permute(0, 2, 3, 1)
        features = self.blocks(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        everyone = features.new_zeros(clips * people, features.shape[1])
        everyone[present.flatten()] = features
        return self.fc(everyone.view(clips, people, -1).sum(1) / present.sum(1, keepdim=True))


class GraphEnsemble(nn.Module):
    """`GraphNetwork`s of several views of a clip, such as bones alone (2s-AGCN, arXiv 1805.07694); logits are averaged.

    In training each clip goes through one of them alone, the next one through the next, so that they learn by
    themselves and a step costs as much as one network's. The test sees a clip and its mirror image. Their features lie
    side by side before one classifier, 0 for the networks that a clip does not go through.
    """

    def __init__(self, stages: tuple, views: dict[str, tuple[int, ...]], classes: int):
        super().__init__()
        self.views = views
        self.networks = nn.ModuleDict({name: GraphNetwork(stages, len(seen), classes) for name, seen in views.items()})
        for network in self.networks.values():
            network.fc = nn.Identity()
        self.fc = nn.Linear(len(views) * stages[-1][0], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of N clips (N, people, 11, T, 18)."""
        count = len(self.views)
        if not self.training or len(x) < count:
            mirrored = x[..., list(MIRROR)] * x.new_tensor(MIRROR_SIGNS).view(-1, 1, 1)
            x, mirrored = beside_the_trunk(x), beside_the_trunk(mirrored)
            seen = [self._features(name, x) + self._features(name, mirrored) for name in self.views]
            return self.fc(torch.cat(seen, 1) / (2 * count))
        x = beside_the_trunk(x)
        features = x.new_zeros(len(x), count, self.fc.in_features // count)
        for place, name in enumerate(self.views):
            features[place::count, place] = self._features(name, x[place::count])
        return self.fc(features.flatten(1))

    def _features(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of one network's."""
        return self.networks[name](x[:, :, list(self.views[name])]).to(x.dtype)


def beside_the_trunk(x: torch.Tensor) -> torch.Tensor:
    """Clips (N, people, 11, T, 18) with four channels more: positions and motions without those of the person's trunk.

    What is left is the pose, wherever people and camera go. The trunk's are means over its parts at that moment.
    """
    values = torch.stack((x[:, :, 0:2], x[:, :, 5:7]), 2)  # x and y of positions, of motions
    known = torch.stack((x[:, :, 2:3] > 0, (values[:, :, 1] != 0).any(2, keepdim=True)), 2)
    trunk = known[..., list(TRUNK)]
    count = trunk.sum(-1, keepdim=True)
    mean = (values[..., list(TRUNK)] * trunk).sum(-1, keepdim=True) / count.clamp(min=1)
    return torch.cat((x, ((values - mean) * (known & (count > 0))).flatten(2, 3)), 2)


def build_graph_network(arch: str, in_channels: int, classes: int, image_size: int | None = None) -> nn.Module:
    """A randomly initialised ST-GCN++, or an ensemble, by its name in `STAGES`."""
    if arch in ENSEMBLES:
        return GraphEnsemble(STAGES[arch], ENSEMBLES[arch], classes)
    return GraphNetwork(STAGES[arch], in_channels, classes)


def moments_of(arch: str) -> int:
    """How many moments a clip has that a network is trained on."""
    return 32 if arch == "stgcnpp_views" else 48


GRAPH_NETWORKS = Family(tuple(STAGES), build_graph_network)
