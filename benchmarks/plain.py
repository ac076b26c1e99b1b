"""The pipeline as the method is usually written, to compare with.

Every image of every sample is decoded by Pillow, goes through torchvision's transforms of PIL images, and
leaves the worker as float32. Training runs one forward pass per segment. A test sample is one frame or one
stack and goes through the network alone. Networks keep batch norm, and NCHW memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dataloader.frame_index import IndexedVideo
from dataloader.sampling import SEGMENTS, STACK_LENGTH, TEST_SAMPLES, segment_starts, stack_indices, test_starts
from network import IMAGENET_MEAN, IMAGENET_STD


def read(video: IndexedVideo, frame: int) -> Image.Image:
    """One image of a video, decoded by Pillow."""
    with Image.open(video.frames.path(frame)) as image:
        return image.convert("RGB")


class SpatialTraining(Dataset):
    """Per video: a list of 3 normalised frames (3, 224, 224), each cropped and flipped at random; the label."""

    def __init__(self, videos: Sequence[IndexedVideo], size: int = 224):
        self.videos = videos
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> tuple[list[torch.Tensor], int]:
        video = self.videos[i]
        frames = segment_starts(video.frames.num_frames, np.random.rand(SEGMENTS))
        return [self.transform(read(video, frame)) for frame in frames], video.video.label


class MotionTraining(Dataset):
    """Per video: a list of one stack (30, 224, 224), cropped at random; the label."""

    def __init__(self, videos: Sequence[IndexedVideo], size: int = 224):
        self.videos, self.size = videos, size
        self.resize, self.to_tensor = transforms.Resize((256, 256)), transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> tuple[list[torch.Tensor], int]:
        video = self.videos[i]
        start = segment_starts(video.frames.num_frames, np.random.rand(1))[0]
        place = transforms.RandomCrop.get_params(torch.empty(3, 256, 256), (self.size, self.size))
        stack = torch.empty(3 * STACK_LENGTH, self.size, self.size)
        for k, frame in enumerate(stack_indices(start, video.frames.num_frames)):
            image = transforms.functional.crop(self.resize(read(video, frame)), *place)
            stack[3 * k : 3 * k + 3] = self.to_tensor(image)
        return [stack], video.video.label


class Testing(Dataset):
    """Every test sample of every video, one after the other: a frame or a stack, and the video's position."""

    def __init__(self, videos: Sequence[IndexedVideo], length: int, size: int = 224):
        self.videos, self.length = videos, length
        steps = [transforms.Resize((size, size)), transforms.ToTensor()]
        if length == 1:
            steps.append(transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.videos) * TEST_SAMPLES

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        position, sample = divmod(i, TEST_SAMPLES)
        video = self.videos[position]
        start = test_starts(video.frames.num_frames)[sample]
        frames = [start] if self.length == 1 else stack_indices(start, video.frames.num_frames)
        return torch.cat([self.transform(read(video, frame)) for frame in frames]), position


def loaders(
    videos: Sequence[IndexedVideo],
    tested: Sequence[IndexedVideo],
    length: int,
    batch_size: int,
    workers: int,
    size: int,
) -> tuple[DataLoader, DataLoader]:
    """The loaders for training, shuffled, and for testing, of either stream."""
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    training = SpatialTraining(videos, size) if length == 1 else MotionTraining(videos, size)
    return (
        DataLoader(training, batch_size, shuffle=True, **options),
        DataLoader(Testing(tested, length, size), batch_size=1, **options),
    )


def train(network: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """One epoch; returns the mean loss."""
    network.train()
    losses = []
    for clips, labels in loader:
        logits = sum(network(clip.to(device)) for clip in clips) / len(clips)
        loss = F.cross_entropy(logits, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(network: nn.Module, loader: DataLoader, device: torch.device) -> dict[str, np.ndarray]:
    """Mean logits of every video's samples."""
    network.eval()
    videos = loader.dataset.videos  # type: ignore[attr-defined]  # of `Testing`
    votes = [[] for _ in videos]
    for sample, position in loader:
        votes[position.item()].append(network(sample.to(device)).cpu().numpy())
    return {video.video.name: np.concatenate(logits).mean(0) for video, logits in zip(videos, votes, strict=True)}
