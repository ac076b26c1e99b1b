"""One epoch of training and one test, for any stream."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from common.cli import UserError
from dataloader.sampling import random_state
from dataloader.video_dataset import VideoLoader, join_images
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
    training_videos: str = ""  # fingerprint of the training list
    frames: dict | None = None  # how the frames were made, a `FrameSettings` in plain values
    poses: dict | None = None  # how the people were found and cleaned, as their records tell

    @property
    def non_blocking(self) -> bool:
        """Whether to copy to the device without waiting; on mps torch has handed out data too early then."""
        return self.device.type != "mps"


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
    (percent), `batch_time` and `data_time` (mean seconds). Raises `UserError` for a loss that is not finite or a
    broken image (unless skipped), `Stopped` after the batch in which a signal came.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms[{"none": len(norms), "partial": 1, "all": 0}[context.freeze_bn] :]:
        module.eval()
    batches = loader.batch_sampler
    batches.epoch = epoch
    processes, device = context.processes, context.device
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
        here = len(batch["positions"])
        videos, stopping = sum_over(processes, [here, float(context.stop.signum > 0)])
        if stopping:
            raise Stopped
        if context.rate:
            for group in optimizer.param_groups:
                group["lr"] = context.rate(epoch + (number + 0.5) / len(loader))
        if videos:
            # A batch smaller than the number of processes went to all of them.
            repeats = processes.world if batches.size(number) < processes.world else 1
            # Every process takes the same number of forward passes, however the videos are shared out.
            batch["parts"] = min(context.accumulate, max(batches.size(number) // processes.world, 1))
            batch["labels"] = all_labels[batch["positions"].to(device)]
            batch["weight"] = processes.world / videos  # gradients are averaged over processes
            batch_totals = _train_step(model, batch, optimizer, scaler, context) / repeats
            if context.averaged:
                context.averaged.update_parameters(getattr(model, "module", model))
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
    return {
        "loss": loss / seen,
        "prec1": 100 * top1 / seen,
        "prec3": 100 * top3 / seen,
        "batch_time": (time.perf_counter() - started) / len(loader),
        "data_time": data_time / len(loader),
    }


def _train_step(
    model: nn.Module, batch: dict, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, context: Context
) -> torch.Tensor:
    """One optimiser step in parts; returns the sums (loss, Prec@1 hits, Prec@3 hits, videos) of this process."""
    device, stream, labels, parts = context.device, context.stream, batch["labels"], batch["parts"]
    optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(4, dtype=torch.float32, device=device)
    images, index = batch["images"], batch.get("index")
    if images is None:  # every video of this process's share is broken
        images = torch.zeros(1, 64, 64, stream.in_channels // stream.length, dtype=torch.uint8)
        index = torch.zeros(0, stream.length, dtype=torch.int64)
    images = images.to(device, non_blocking=context.non_blocking)
    clips = len(index) // max(len(labels), 1)
    index = index.to(device, non_blocking=context.non_blocking).view(len(labels), clips, stream.length)
    for i, part in enumerate(torch.arange(len(labels), device=device).tensor_split(parts)):
        rows, targets, share = index[part].flatten(0, 1), labels[part], batch["weight"]
        if not len(part):  # a process without a video takes part in the others' step with a weight of 0
            rows, targets, share = index.new_zeros(1, stream.length), labels.new_zeros(1), 0
        last = i + 1 == parts
        with contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():  # type: ignore[operator]  # a method
            with torch.autocast(device.type, enabled=context.amp):
                logits = model(context.stream.to_input(images, rows))
            consensus = logits.float().view(len(targets), -1, logits.shape[1]).mean(1)
            loss = F.cross_entropy(consensus, targets, reduction="sum", label_smoothing=context.label_smoothing)
            scaler.scale(loss * share).backward()
        if len(part):
            with torch.no_grad():
                # The plain loss, as the test's: the smoothed one is higher.
                plain = F.cross_entropy(consensus, targets, reduction="sum")
                hits = consensus.topk(min(3, consensus.shape[1])).indices == targets[:, None]
                totals += torch.stack(
                    [plain, hits[:, 0].sum(), hits.sum(), hits.new_tensor(len(part), dtype=loss.dtype)]
                )
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
    video's name to float32 (classes,), in the order of the list. Raises `UserError` for a broken image
    (unless skipped) and `Stopped` after the batch in which a signal came.
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
    """What the classifier of the network sees of each clip of each video, float32 (clips, D) by name.

    Raises as `evaluate` does.
    """
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
        if len(batch["positions"]):
            moved = [batch[part].to(device, non_blocking=context.non_blocking) for part in ("images", "index")]
            waiting.append((batch["positions"], *moved))
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


def _note_broken(batch: dict, context: Context) -> None:
    for name, reason in batch["broken"]:
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
