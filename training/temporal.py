"""Temporal heads: networks on a video's features in their order, and the stream that trains them."""

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.cli import UserError
from common.frames import Frames
from dataloader.features import Features
from dataloader.frame_index import IndexedVideo
from dataloader.names import Video
from dataloader.video_dataset import Prepared, Sample
from network import BatchNorm, Family
from training.streams import Stream

SEGMENTS = 3
HIDDEN = 512  # of the LSTM
KERNELS, POOLS = (5, 7), (2, 2, 2, 3)
LAST_HIDDEN, DROPOUT = 1024, 0.2  # of Temporal-Inception's end


class MeanHead(nn.Module):
    """A linear layer on the mean over time: (N, K, D) → (N, classes). What does not look at the order."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.fc = nn.Linear(features, classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(values.mean(1))


class SegmentLSTM(nn.Module):
    """TS-LSTM (arXiv 1703.10667): (N, K, D) → (N, classes); the maximum over each of 3 segments goes into an LSTM."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.norm = BatchNorm(features)
        self.lstm = nn.LSTM(features, HIDDEN, batch_first=True)
        self.last = BatchNorm(HIDDEN)
        self.fc = nn.Linear(HIDDEN, classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits; fewer positions than segments are segments of their own."""
        values = self.norm(values.transpose(1, 2))
        segments = values.tensor_split(min(SEGMENTS, values.shape[2]), dim=2)
        outputs, _ = self.lstm(torch.stack([segment.amax(2) for segment in segments], 1))
        return self.fc(self.last(outputs[:, -1]))


class TemporalInception(nn.Module):
    """Temporal-Inception (arXiv 1703.10667): (N, K, D), K of 24 or more, → (N, classes).

    The features × time matrix is an image of one channel. Four stages of two branches, convolutions along time with
    kernels of 5 and 7, of 1, 2, 4 and 8 channels each, with batch norm and ReLU; then pooling over time by 2, 2, 2 and
    3. 1×1 convolutions from 16 to 4, 2 and 1 channels, and two linear layers.
    """

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 1
        for stage in range(len(POOLS)):
            branches = [_convolution(channels, 2**stage, kernel) for kernel in KERNELS]
            self.stages.append(nn.ModuleList(branches))
            channels = len(KERNELS) * 2**stage
        self.squeeze = nn.Sequential(*(_convolution(a, b, 1) for a, b in ((channels, 4), (4, 2), (2, 1))))
        self.wide = nn.Linear(features, LAST_HIDDEN)
        self.norm = BatchNorm(LAST_HIDDEN)
        self.fc = nn.Linear(LAST_HIDDEN, classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits."""
        image = values.transpose(1, 2)[:, None]
        for branches, pool in zip(self.stages, POOLS, strict=True):
            image = F.max_pool2d(torch.cat([branch(image) for branch in branches.children()], 1), (1, pool))
        vector = self.squeeze(image).amax(3).flatten(1)  # of 25 positions a single one is left
        wide = F.relu(self.norm(self.wide(F.dropout(vector, DROPOUT, self.training))))
        return self.fc(F.dropout(wide, DROPOUT, self.training))


def _convolution(channels: int, out: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, (1, kernel), padding=(0, kernel // 2))
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


HEADS = {"ts-lstm": SegmentLSTM, "inception": TemporalInception, "mean": MeanHead}


def build_head(head: str, features: int, classes: int, image_size: int | None = None) -> nn.Module:
    """A randomly initialised head of `HEADS`."""
    return HEADS[head](features, classes)


TEMPORAL_HEADS = Family(tuple(HEADS), build_head)


def temporal_stream(features: Features, source: str) -> Stream:
    """The stream on these features, which `source` names: a clip is a whole video, float32 (1, K, D)."""
    vectors = dict(zip(features.names, features.features, strict=True))
    _, positions, channels = features.features.shape

    def find(args: Namespace, videos: Sequence[Video]) -> Prepared:
        if args.arch == "inception" and positions < math.prod(POOLS):
            needs = f"has {positions} positions of a video, the inception head needs {math.prod(POOLS)} or more"
            raise UserError(f"{source}: {needs}; make it with more --positions")
        good = [IndexedVideo(video, Frames(source, positions)) for video in videos]
        return good, [], partial(_sample, vectors=vectors)

    def to_input(vectors: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return vectors[index[:, 0]]

    return Stream("temporal", "temporal", channels, find, to_input, test_clips=1, family=TEMPORAL_HEADS)


def _sample(
    video: IndexedVideo, generator: np.random.Generator | None, vectors: Mapping[str, np.ndarray], clips: int = 1
) -> Sample:
    clip = vectors[video.video.name][None].astype(np.float32)
    return Sample(torch.from_numpy(clip), torch.zeros(1, 1, dtype=torch.int64))
