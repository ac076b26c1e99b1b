"""One epoch of training and one test, for either stream."""

import contextlib
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.cli import UserError
from dataloader.images import resize, to_input
from dataloader.video_dataset import People
from fusion.metrics import precision
from network import for_testing
from pose.render import render_people
from training.distributed import Processes, gather, share_buffers, sum_over
from utils import StopRequest

TEST_CLIPS = 38  # clips per forward pass of the test: two videos' 19 samples


class Stopped(Exception):
    """SIGINT or SIGTERM asked the run to end."""


@dataclass
class Context:
    """What training and testing of a stream have in common."""

    device: torch.device
    image_size: int = 224
    stack_length: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    amp: bool = False
    accumulate: int = 1
    freeze_bn: bool = False
    skip_broken: bool = False
    processes: Processes = field(default_factory=Processes)
    stop: StopRequest = field(default_factory=StopRequest)
    left_out: dict[str, str] = field(default_factory=dict)  # broken videos and why


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    context: Context,
    epoch: int,
) -> dict[str, float]:
    """Train `model` (bare, compiled or data-parallel) on every batch of `loader` once.

    A video's clips go through the network together; the consensus is the mean of their logits, the loss
    its cross-entropy (TSN, arXiv 1608.00859), averaged over the videos of the whole batch, whatever part
    of it this process and this accumulation step hold. Returns `loss`, `prec1`, `prec3` (percent),
    `batch_time` and `data_time` (mean seconds). Raises `UserError` for a loss that is not finite or a
    broken image (unless skipped), `Stopped` after the batch in which a signal came.
    """
    model.train()
    if context.freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    loader.batch_sampler.epoch = epoch
    processes, device = context.processes, context.device
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
        here = len(batch["positions"])
        videos, stopping = sum_over(processes, [here, float(context.stop.signum > 0)])
        if stopping:
            raise Stopped
        if videos:
            # A batch smaller than the number of processes went to all of them.
            repeats = processes.world if loader.batch_sampler.size(number) < processes.world else 1
            labels = all_labels[batch["positions"].to(device)]
            batch_totals = _train_step(model, batch, labels, optimizer, scaler, context, videos) / repeats
            totals += batch_totals
            unchecked.append((number, batch_totals[0] / max(here, 1) * repeats, batch["positions"]))
        if number % check_every == 0 or number + 1 == len(loader):
            _check_finite(unchecked, loader, epoch)
            unchecked = []
            loss, hits, _, seen = totals.tolist()
            bar.set_postfix(loss=f"{loss / max(seen, 1):.4f}", prec1=f"{100 * hits / max(seen, 1):.2f}")
        waiting = time.perf_counter()
    loss, top1, top3, seen = sum_over(processes, totals.tolist())
    if not seen:
        raise UserError("every training video is broken or missing; check the data folder")
    batches = len(loader)
    return {
        "loss": loss / seen,
        "prec1": 100 * top1 / seen,
        "prec3": 100 * top3 / seen,
        "batch_time": (time.perf_counter() - started) / batches,
        "data_time": data_time / batches,
    }


def _train_step(model, batch, labels, optimizer, scaler, context: Context, videos: float) -> torch.Tensor:
    """One optimiser step; returns the sums (loss, Prec@1 hits, Prec@3 hits, videos) of this process's share."""
    device = context.device
    optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(4, dtype=torch.float32, device=device)
    images, index = batch["images"], batch.get("index")
    empty = images is None
    if empty:
        # All of this process's videos are broken: it takes part in the others' step with a weight of 0.
        images = torch.zeros(1, context.image_size, context.image_size, 3, dtype=torch.uint8)
        index, labels = torch.zeros(1, context.stack_length, dtype=torch.int64), labels.new_zeros(1)
    images, index = images_on(device, images, context.image_size), index.to(device, non_blocking=True)
    clips = len(index) // len(labels)
    parts = torch.arange(len(labels), device=device).tensor_split(min(context.accumulate, len(labels)))
    for i, part in enumerate(parts):
        rows = index.view(len(labels), clips, -1)[part].flatten(0, 1)
        last = i + 1 == len(parts)
        with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            with torch.autocast(device.type, enabled=context.amp):
                logits = model(to_input(images, rows, context.mean, context.std))
            consensus = logits.float().view(len(part), clips, -1).mean(1)
            loss = F.cross_entropy(consensus, labels[part], reduction="sum")
            # Gradients are averaged over processes, hence the factor of their number.
            scaler.scale(loss * (0 if empty else context.processes.world / videos)).backward()
        with torch.no_grad():
            hits = consensus.topk(min(3, consensus.shape[1])).indices == labels[part, None]
            totals += torch.stack([loss, hits[:, 0].sum(), hits.sum(), hits.new_tensor(len(part), dtype=loss.dtype)])
    scaler.step(optimizer)
    scaler.update()
    return totals * (0 if empty else 1)


@torch.inference_mode()
def evaluate(network: nn.Module, loader: DataLoader, context: Context, what: str = "test") -> dict:
    """Test `network` on every video of `loader`'s data set, each once over all processes.

    A video's score is the mean of its 19 logit vectors; the loss is the cross-entropy of that mean.
    Returns `loss`, `prec1`, `prec3` (percent), `batch_time` (mean seconds) and `scores`, a dict from the
    video's name to float32 (classes,), in the order of the list. Raises `UserError` for a broken image
    (unless skipped) and `Stopped` after the batch in which a signal came.
    """
    share_buffers(context.processes, network)
    tester = for_testing(network).to(context.device)
    mine, started = {}, time.perf_counter()
    for batch in _bar(loader, what, context.processes):
        if context.stop.signum:
            raise Stopped
        _note_broken(batch, context)
        if batch["images"] is None:
            continue
        images = images_on(context.device, batch["images"], context.image_size)
        rows = batch["index"].to(context.device, non_blocking=True).split(TEST_CLIPS)
        with torch.autocast(context.device.type, enabled=context.amp):
            logits = torch.cat([tester(to_input(images, part, context.mean, context.std)) for part in rows])
        votes = logits.float().view(len(batch["positions"]), -1, logits.shape[1]).mean(1)
        mine.update(zip(batch["positions"].tolist(), votes.cpu().numpy(), strict=True))
    seconds = time.perf_counter() - started
    merged = {position: score for part in gather(context.processes, mine) for position, score in part.items()}
    if not merged:
        raise UserError(f"no video of the {what} list can be read; check the data folder")
    positions = sorted(merged)
    scores = np.stack([merged[position] for position in positions])
    labels = np.array([loader.dataset.labels[position] for position in positions])
    if not np.isfinite(scores).all():
        bad = positions[int(np.flatnonzero(~np.isfinite(scores).all(1))[0])]
        raise UserError(f"the network's scores of video {loader.dataset.videos[bad].video.name!r} are not finite")
    prec1, prec3 = precision(scores, labels)
    loss = F.cross_entropy(torch.from_numpy(scores).double(), torch.from_numpy(labels)).item()
    names = [loader.dataset.videos[position].video.name for position in positions]
    return {
        "loss": loss,
        "prec1": prec1,
        "prec3": prec3,
        "batch_time": seconds / max(len(loader), 1),
        "scores": dict(zip(names, scores, strict=True)),
    }


def images_on(device: torch.device, images: torch.Tensor | People, size: int) -> torch.Tensor:
    """A batch's images as uint8 (M, S, S, 3) on the device, drawn there if they come as `People`."""
    if isinstance(images, torch.Tensor):
        return images.to(device, non_blocking=True)
    keypoints, frame_sizes, affine, mirror = (tensor.to(device, non_blocking=True) for tensor in images)
    # Drawn at the size that images on disk have, then resized as those are, for strokes of the same width.
    drawn = render_people(keypoints, frame_sizes, affine=affine, mirror=mirror)
    return resize(drawn, size, size).permute(0, 2, 3, 1)


def _note_broken(batch: dict, context: Context) -> None:
    for name, reason in batch["broken"]:
        if not context.skip_broken:
            raise UserError(f"{reason} (video {name!r}); make it again, or leave it out with --skip-broken")
        context.left_out[name] = reason


def _check_finite(unchecked: list, loader: DataLoader, epoch: int) -> None:
    for number, loss, positions in unchecked:
        value = loss.item()
        if not np.isfinite(value):
            names = [loader.dataset.videos[position].video.name for position in positions.tolist()]
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise UserError(
                f"the loss is {value} in epoch {epoch}, batch {number} (videos {shown}); "
                "try a lower --lr, or --no-amp; the last checkpoint is untouched"
            )


def _bar(loader: DataLoader, text: str, processes: Processes) -> tqdm:
    return tqdm(loader, desc=text, disable=None if processes.main else True, dynamic_ncols=True, leave=False)
