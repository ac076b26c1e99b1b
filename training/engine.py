"""One epoch of training and one test, for any stream."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from common.cli import UserError
from dataloader.sampling import random_state
from dataloader.video_dataset import Batch, VideoLoader, join_images
from fusion.metrics import precision
from network import Model, for_testing, without_classifier
from training.distributed import Processes, gather, share_network, sum_over
from training.streams import Stream
from utils import StopRequest

# Clips in a forward pass of the test: as soon as there are so many, and at most: 2 and 16 videos of 19 samples.
TEST_CLIPS = {"cpu": (1, 38), "mps": (1, 38), "cuda": (304, 304)}


class Stopped(Exception):
    """SIGINT or SIGTERM asked the run to end."""


@dataclass
class Context:
    """What training and testing have in common: the stream, where and how to compute, what was skipped."""

    stream: Stream
    device: torch.device
    amp: bool = False
    accumulate: int = 1
    freeze_bn: str = "none"  # or "partial", "all"
    label_smoothing: float = 0.0
    clip_gradients: float = 0.0  # to this norm; 0: not at all
    rate: Callable[[float], float] | None = None  # the learning rate at a (fractional) epoch; None: as it is
    averaged: AveragedModel | None = None  # moving average of the weights
    skip_broken: bool = False
    processes: Processes = field(default_factory=Processes)
    stop: StopRequest = field(default_factory=StopRequest)
    skipped: dict[str, str] = field(default_factory=dict)  # videos and why

    def move(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The tensors on the device; without waiting, but on mps, where torch has handed out data too early then."""
        return [tensor.to(self.device, non_blocking=self.device.type != "mps") for tensor in tensors]


class Share(NamedTuple):
    """This process's videos of a batch: images (M, S, S, C), index (B, clips, L) into them, labels (B,)."""

    images: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # of a tuple
    labels: torch.Tensor
    parts: int  # forward passes, of which every process takes as many, however the videos are shared out
    weight: float  # of a video's gradient


def train_one_epoch(
    model: nn.Module,
    loader: VideoLoader,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    context: Context,
    epoch: int,
) -> dict[str, float]:
    """Train `model` (bare, compiled or data-parallel) on every batch of `loader` once.

    A video's clips go through the network together; the consensus is the mean of their logits, the loss
    its cross-entropy (TSN, arXiv 1608.00859), averaged over the videos of the whole batch, whatever part
    of it this process and this accumulation step hold. Returns `loss` (without label smoothing), `prec1` and `prec3`
    (percent), `batch_time` and `data_time` (mean seconds). Raises `Stopped` after the batch in which a signal came.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms[{"none": len(norms), "partial": 1, "all": 0}[context.freeze_bn] :]:
        module.eval()
    batches, processes, device = loader.batch_sampler, context.processes, context.device
    batches.epoch = epoch
    # What torch draws (dropout) depends on seed, epoch and process alone, so that resuming is exact.
    torch.manual_seed(int(random_state(batches.seed, epoch, f"process {processes.rank}").integers(2**31)))
    torch.empty((), dtype=torch.int64).random_()  # the loader's draw of earlier versions, so that their runs resume
    all_labels = torch.tensor(loader.dataset.labels, device=device)
    totals = torch.zeros(4, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    unchecked: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    # Reading a loss waits for the GPU, so there it is done for ten batches at once.
    check_every = 1 if device.type == "cpu" else 10
    data_time, started = 0.0, time.perf_counter()
    bar = _bar(loader, f"epoch {epoch}", processes)
    waiting = time.perf_counter()
    for number, batch in enumerate(bar):
        data_time += time.perf_counter() - waiting
        _note_broken(batch, context)
        here, size = len(batch.positions), batches.size(number)
        videos, stopping = sum_over(processes, [here, float(context.stop.signum > 0)])
        if stopping:
            raise Stopped
        if context.rate:
            for group in optimizer.param_groups:
                group["lr"] = context.rate(epoch + (number + 0.5) / len(loader))
        if videos:
            images, index = batch.images, batch.index
            if images is None:  # all of this process's videos are broken, and it takes part in the others' step
                channels = context.stream.in_channels // context.stream.length
                images = torch.zeros(1, 64, 64, channels, dtype=torch.uint8)
                index = torch.zeros(0, context.stream.length, dtype=torch.int64)
            images, index = context.move(images, index)
            index = index.view(here, len(index) // max(here, 1), context.stream.length)
            # Gradients are averaged over processes.
            parts, weight = min(context.accumulate, max(size // processes.world, 1)), processes.world / videos
            share = Share(images, index, all_labels[batch.positions.to(device)], parts, weight)
            # A batch smaller than the number of processes went to all of them.
            repeats = processes.world if size < processes.world else 1
            sums = _train_step(model, share, optimizer, scaler, context) / repeats
            if context.averaged:
                context.averaged.update_parameters(getattr(model, "module", model))
            totals += sums
            unchecked.append((number, sums[0] / max(here, 1) * repeats, batch.positions))
        if number % check_every == 0 or number + 1 == len(loader):
            _check_finite(unchecked, loader, epoch)
            unchecked = []
            loss, hits, _, seen = totals.tolist()
            bar.set_postfix(loss=f"{loss / max(seen, 1):.4f}", prec1=f"{100 * hits / max(seen, 1):.2f}")
        waiting = time.perf_counter()
    loss, top1, top3, seen = sum_over(processes, totals.tolist())
    if not seen:
        raise UserError("every training video is broken or missing; check the data folder")
    return {
        "loss": loss / seen,
        "prec1": 100 * top1 / seen,
        "prec3": 100 * top3 / seen,
        "batch_time": (time.perf_counter() - started) / len(loader),
        "data_time": data_time / len(loader),
    }


def _train_step(
    model: nn.Module, share: Share, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, context: Context
) -> torch.Tensor:
    """One optimiser step in parts; returns the sums (loss, Prec@1 hits, Prec@3 hits, videos) of this process."""
    optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(4, dtype=torch.float32, device=context.device)
    videos = torch.arange(len(share.labels), device=context.device)
    for i, part in enumerate(videos.tensor_split(share.parts)):
        rows, targets, weight = share.index[part].flatten(0, 1), share.labels[part], share.weight
        if not len(part):  # a process without a video takes part in the others' step with a weight of 0
            rows, targets, weight = rows.new_zeros(1, context.stream.length), targets.new_zeros(1), 0
        last = i + 1 == share.parts
        with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():  # type: ignore[operator]  # a method
            with torch.autocast(context.device.type, enabled=context.amp):
                logits = model(context.stream.to_input(share.images, rows))
            consensus = logits.float().view(len(targets), -1, logits.shape[1]).mean(1)
            loss = F.cross_entropy(consensus, targets, reduction="sum", label_smoothing=context.label_smoothing)
            scaler.scale(loss * weight).backward()
        if len(part):
            with torch.no_grad():
                plain = F.cross_entropy(consensus, targets, reduction="sum")  # as the test's, which smooths nothing
                hits = consensus.topk(min(3, consensus.shape[1])).indices == targets[:, None]
                count = hits.new_tensor(len(part), dtype=loss.dtype)
                totals += torch.stack([plain, hits[:, 0].sum(), hits.sum(), count])
    if context.clip_gradients:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), context.clip_gradients)
    scaler.step(optimizer)
    scaler.update()
    return totals


def evaluate(model: Model, loader: VideoLoader, context: Context, what: str = "test") -> dict:
    """Test a network on every video of `loader`'s data set, each once over all processes.

    A video's score is the mean of the logit vectors of its clips; the loss is the cross-entropy of that mean.
    Returns `loss`, `prec1`, `prec3` (percent), `batch_time` (mean seconds) and `scores`, a dict from the
    video's name to float32 (classes,), in the order of the list. Raises `Stopped` as training does.
    """
    started = time.perf_counter()
    merged = _run_network(model.network, loader, context, what, lambda logits: logits.mean(1))
    seconds = time.perf_counter() - started
    positions = sorted(merged)
    scores, all_labels = np.stack([merged[position] for position in positions]), loader.dataset.labels
    labels = np.array([all_labels[position] for position in positions])
    names = [loader.dataset.videos[position].video.name for position in positions]
    finite = np.isfinite(scores).all(1)
    if not finite.all():
        raise UserError(f"the network's scores of video {names[int(np.argmin(finite))]!r} are not finite")
    prec1, prec3 = precision(scores, labels)
    loss = F.cross_entropy(torch.from_numpy(scores).double(), torch.from_numpy(labels)).item()
    return {
        "loss": loss,
        "prec1": prec1,
        "prec3": prec3,
        "batch_time": seconds / max(len(loader), 1),
        "scores": dict(zip(names, scores, strict=True)),
    }


def extract_features(model: Model, loader: VideoLoader, context: Context, what: str) -> dict[str, np.ndarray]:
    """What the classifier of the network sees of each clip of each video, float32 (clips, D) by name."""
    merged = _run_network(
        without_classifier(model.network), loader, context, f"{what} features", lambda vectors: vectors
    )
    return {loader.dataset.videos[position].video.name: merged[position] for position in sorted(merged)}


@torch.inference_mode()
def _run_network(network: nn.Module, loader: VideoLoader, context: Context, what: str, reduce: Callable) -> dict:
    """`reduce`d outputs (videos, clips, D) of the network on every video of all processes, by position in the list.

    A GPU gets several batches of the loader at once, joined there, so that workers need not hold that many videos.
    """
    share_network(context.processes, network)
    device, tester = context.device, for_testing(network, context.device)
    enough, clips = TEST_CLIPS[device.type]
    mine, waiting = {}, []
    for number, batch in enumerate(_bar(loader, what, context.processes)):
        if context.stop.signum:
            raise Stopped
        _note_broken(batch, context)
        if batch.images is not None:
            waiting.append((batch.positions, *context.move(batch.images, batch.index)))
        if waiting and (sum(len(index) for *_, index in waiting) >= enough or number + 1 == len(loader)):
            positions = torch.cat([positions for positions, *_ in waiting]).tolist()
            images, index = join_images((images, index) for _, images, index in waiting)
            outputs, clips = _forward(tester, images, index, clips, context)
            reduced = reduce(outputs.float().view(len(positions), -1, outputs.shape[1]))
            mine.update(zip(positions, reduced.cpu().numpy(), strict=True))
            waiting = []
    merged = {position: output for part in gather(context.processes, mine) for position, output in part.items()}
    if not merged:
        raise UserError(f"no video of the {what} list can be read; check the data folder")
    return merged


def _forward(
    tester: nn.Module, images: torch.Tensor, index: torch.Tensor, clips: int, context: Context
) -> tuple[torch.Tensor, int]:
    """The network's outputs of all clips, at most `clips` in one pass, and as many as the memory holds of them."""
    while True:
        try:
            with torch.autocast(context.device.type, enabled=context.amp):
                return torch.cat([tester(context.stream.to_input(images, rows)) for rows in index.split(clips)]), clips
        except torch.OutOfMemoryError:
            if clips == 1:
                raise
            clips = -(-clips // 2)


def _note_broken(batch: Batch, context: Context) -> None:
    for name, reason in batch.broken:
        if not context.skip_broken:
            raise UserError(f"{reason} (video {name!r}); make it again, or skip it with --skip-broken")
        context.skipped[name] = reason


def _check_finite(unchecked: list, loader: VideoLoader, epoch: int) -> None:
    for number, loss, positions in unchecked:
        value = loss.item()
        if not np.isfinite(value):
            names = [loader.dataset.videos[position].video.name for position in positions.tolist()]
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise UserError(
                f"the loss is {value} in epoch {epoch}, batch {number} (videos {listed}); "
                "try a lower --lr, or --no-amp; the last checkpoint is untouched"
            )


def _bar(loader: VideoLoader, text: str, processes: Processes) -> tqdm:
    return tqdm(loader, desc=text, disable=None if processes.main else True, dynamic_ncols=True, leave=False)
