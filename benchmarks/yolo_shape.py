"""Write an ONNX network of the shape of YOLOv8n-pose with random weights, which finds nobody, to time it.

python -m benchmarks.yolo_shape yolo.onnx
python -m benchmarks.pose --models onnx --pose-weights yolo.onnx
"""

import sys

import torch
from torch import nn

SIDE = 640
STRIDES = (8, 16, 32)
BINS = 16  # of the distribution of a distance to a box's side
VALUES = 51  # of a person: 17 × (x, y, score)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution, its batch norm folded in, and SiLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.SiLU())


class C2f(nn.Module):
    """Half of the channels go through bottlenecks, whose outputs are all kept."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.last = conv(inputs, outputs), conv((2 + count) * half, outputs)
        self.blocks = nn.ModuleList(nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(count))
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        parts = list(self.first(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]) if self.shortcut else block(parts[-1]))
        return self.last(torch.cat(parts, dim=1))


class YoloPose(nn.Module):
    """The backbone, the two ways of the neck and the three branches of the head on each of three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.to8 = nn.Sequential(
            *(conv(3, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1, True), conv(32, 64, 3, 2), C2f(64, 64, 2, True))
        )
        self.to16 = nn.Sequential(conv(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.to32 = nn.Sequential(conv(128, 256, 3, 2), C2f(256, 256, 1, True))
        self.before_pools, self.after_pools = conv(256, 128), conv(512, 256)
        self.up16, self.up8 = C2f(384, 128, 1), C2f(192, 64, 1)
        self.down16, self.down32 = conv(64, 64, 3, 2), conv(128, 128, 3, 2)
        self.out16, self.out32 = C2f(192, 128, 1), C2f(384, 256, 1)
        branches = ((64, 4 * BINS), (64, 1), (VALUES, VALUES))
        self.heads = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(conv(inputs, width, 3), conv(width, width, 3), nn.Conv2d(width, outputs, 1))
                for width, outputs in branches
            )
            for inputs in (64, 128, 256)
        )
        for score in (head.get_submodule("1.2") for head in self.heads):
            nn.init.constant_(score.get_parameter("bias"), -10)  # nobody

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(1, 3, 640, 640) to (1, 56, 8400): of each place a box, a score, 17 parts in pixels and their scores."""
        at8 = self.to8(images)
        at16 = self.to16(at8)
        pools = [self.before_pools(self.to32(at16))]
        for _ in range(3):
            pools.append(nn.functional.max_pool2d(pools[-1], 5, 1, 2))
        at32 = self.after_pools(torch.cat(pools, dim=1))
        up16 = self.up16(torch.cat((nn.functional.interpolate(at32, scale_factor=2), at16), dim=1))
        out8 = self.up8(torch.cat((nn.functional.interpolate(up16, scale_factor=2), at8), dim=1))
        out16 = self.out16(torch.cat((self.down16(out8), up16), dim=1))
        out32 = self.out32(torch.cat((self.down32(out16), at32), dim=1))
        return torch.cat(
            [self.people(*item) for item in zip((out8, out16, out32), STRIDES, self.heads, strict=True)], dim=2
        )

    def people(self, x: torch.Tensor, stride: int, head: nn.ModuleList) -> torch.Tensor:
        """What is found at each place of one scale: (1, 56, places)."""
        side = SIDE // stride
        box, score, parts = (branch(x).flatten(2) for branch in head)
        steps = torch.arange(side) + 0.5
        place = torch.stack((steps.repeat(side), steps.repeat_interleave(side)))[None]
        distance = (box.view(1, 4, BINS, -1).softmax(2) * torch.arange(BINS).view(1, 1, -1, 1)).sum(2)
        low, high = place - distance[:, :2], place + distance[:, 2:]
        values = parts.view(1, 17, 3, -1)
        points = (values[:, :, :2] * 2 + place[:, None] - 0.5) * stride
        found = torch.cat((points, values[:, :, 2:].sigmoid()), dim=2).flatten(1, 2)
        return torch.cat(((low + high) / 2 * stride, (high - low) * stride, score.sigmoid(), found), dim=1)


def main(path: str) -> None:
    """Write the network to the file `path`."""
    network = YoloPose().eval()
    torch.onnx.export(network, (torch.zeros(1, 3, SIDE, SIDE),), path, opset_version=17, dynamo=False)
    print(f"{path}: {sum(value.numel() for value in network.parameters()):,} weights, as YOLOv8n-pose")


if __name__ == "__main__":
    main(sys.argv[1])
