"""Videos as samples of uint8 images, and the loaders that batch them."""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.frames import BrokenImage
from dataloader.frame_index import IndexedVideo
from dataloader.images import resize, transform_images
from dataloader.names import Video
from dataloader.sampling import TEST_SAMPLES, clips_for_testing, random_state, segment_starts, stack_indices


class Sample(NamedTuple):
    """The images of one video that are needed, each once, and which of them make up each of its clips."""

    images: torch.Tensor  # uint8 (M, S, S, 3)
    index: torch.Tensor  # type: ignore[assignment]  # of a tuple; int64 (clips, L) into images, in time order


# Videos that can be used, others with the reason, and what samples a video: `sample(video, generator, clips=…)`.
Prepared = tuple[list[IndexedVideo], list[tuple[Video, str]], Callable[..., Sample]]
Read = Callable[[Sequence[int]], Iterable]  # images of 1-based frames, uint8 (H, W, C), in order


def sample_for_training(
    read: Read, num_frames: int, draws: np.ndarray, length: int, augment: Callable[[Iterable[np.ndarray]], torch.Tensor]
) -> Sample:
    """A clip of `length` images from a start in each of K equal parts of a video, by K `draws` in [0, 1).

    `augment` makes uint8 (M, S, S, C) of the images, all by the same random numbers.
    """
    starts = segment_starts(num_frames, draws)
    frames = [frame for start in starts for frame in stack_indices(start, num_frames, length)]
    return Sample(augment(read(frames)), torch.arange(len(frames)).view(len(starts), length))


def sample_for_testing(read: Read, num_frames: int, length: int, image_size: int, clips: int = TEST_SAMPLES) -> Sample:
    """The test clips of a video, `length` images each, resized to `image_size` without cropping."""
    frames, index = clips_for_testing(num_frames, length, clips)
    images = transform_images(read(frames), partial(resize, height=image_size, width=image_size))
    return Sample(images, torch.from_numpy(index))


class Broken(NamedTuple):
    """A video whose images cannot be read, and why."""

    name: str
    reason: str


class VideoDataset(Dataset):
    """One item per video: `(position, Sample)`, or `(position, Broken)` if an image cannot be read.

    `sample(video, generator)` reads the images: for training with random numbers of (seed, epoch, video),
    for testing with None. Training is asked with keys `(epoch, position)`, testing with `position`.
    """

    def __init__(self, videos: list[IndexedVideo], sample: Callable[..., Sample], seed: int = 0):
        self.videos, self.sample, self.seed = videos, sample, seed

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[int, Sample | Broken]:
        epoch, position = key if isinstance(key, tuple) else (None, key)
        video = self.videos[position]
        generator = None if epoch is None else random_state(self.seed, epoch, video.video.name)
        try:
            return position, self.sample(video, generator)
        except BrokenImage as error:
            return position, Broken(video.video.name, str(error))


class Batch(NamedTuple):
    """Samples of several videos, joined; without images if all of them are broken."""

    positions: torch.Tensor  # int64 (B,) in the data set
    broken: list[Broken]
    images: torch.Tensor | None = None  # (ΣM, S, S, C)
    index: torch.Tensor | None = None  # type: ignore[assignment]  # of a tuple; int64 (B * clips, L)


def collate(items: list[tuple[int, Sample | Broken]]) -> Batch:
    """Join samples."""
    good = [(position, sample) for position, sample in items if isinstance(sample, Sample)]
    positions = torch.tensor([position for position, _ in good], dtype=torch.int64)
    broken = [sample for _, sample in items if isinstance(sample, Broken)]
    return Batch(positions, broken, *(join_images(sample for _, sample in good) if good else ()))


def join_images(parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (M, S, S, 3) and indices into them (clips, L) of several samples or batches as one: ΣM and Σclips."""
    images, indices = zip(*parts, strict=True)
    if len(images) == 1:
        return images[0], indices[0]  # no copy
    firsts = itertools.accumulate(map(len, images), initial=0)
    return torch.cat(images), torch.cat([index + first for index, first in zip(indices, firsts, strict=False)])


class EpochBatches(Sampler):
    """Batches of `(epoch, position)`, shuffled by (seed, epoch): every world-th video of each for process `rank`.

    A last batch with fewer videos than processes goes to all of them, whose mean gradient is then that of one.
    """

    def __init__(self, videos: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.videos, self.batch_size, self.seed = videos, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def __len__(self) -> int:
        return -(-self.videos // self.batch_size)

    def size(self, number: int) -> int:
        """Videos in the batch of that number, over all processes."""
        return min(self.batch_size, self.videos - number * self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = random_state(self.seed, self.epoch).permutation(self.videos).tolist()
        for first in range(0, self.videos, self.batch_size):
            batch = order[first : first + self.batch_size]
            share = batch[self.rank :: self.world] if len(batch) >= self.world else batch
            yield [(self.epoch, position) for position in share]


class VideoLoader(DataLoader):
    """A loader of a `VideoDataset`; `batches` are `DataLoader`'s options of what is in them.

    Training takes `EpochBatches` as the `batch_sampler`, whose `epoch` is set before each epoch.
    """

    dataset: VideoDataset

    def __init__(self, dataset: VideoDataset, workers: int, pin: bool, **batches: Any):
        super().__init__(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            collate_fn=collate,
            worker_init_fn=_leave_signals_to_main,
            # The workers' seeds, which nobody uses, come from a generator of their own: from torch's they would be
            # drawn once with workers and every epoch without, and shift the dropout that follows.
            generator=torch.Generator(),
            **batches,
        )


def _leave_signals_to_main(worker: int) -> None:
    # Ctrl-C and clusters' SIGTERM reach every process; the main one decides when the workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def end_workers() -> None:
    """End the loaders' worker processes at once: they only read, and asking them takes seconds each."""
    # Where there is a signal for it, torch takes the end of a worker for a fault and would raise from its handler.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if hasattr(signal, "SIGCHLD") else None
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)
