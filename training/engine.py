"""One epoch of training and one test, for any stream, and what an epoch trains with."""

import contextlib
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from common.cli import UserError
from dataloader.names import Video, first_names
from dataloader.sampling import random_state
from dataloader.video_dataset import Batch, VideoLoader, join_images
from fusion.metrics import precision
from network import Model, classifier, for_testing, without_classifier
from training.distributed import Processes, gather, share_network, sum_over
from training.streams import Stream
from utils import StopRequest

PENALTY = 0.1  # of the sum of squares of a linear probe's weights, on features of deviation 1 (docs/recipe.md)
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
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler = field(default_factory=partial(torch.amp.GradScaler, "cpu", enabled=False))
    skip_broken: bool = False
    processes: Processes = field(default_factory=Processes)
    stop: StopRequest = field(default_factory=StopRequest)
    skipped: dict[str, str] = field(default_factory=dict)  # videos and why

    def move(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The tensors on the device; without waiting, but on mps, where torch has handed out data too early then."""
        return [tensor.to(self.device, non_blocking=self.device.type != "mps") for tensor in tensors]


def train_one_epoch(model: nn.Module, loader: VideoLoader, context: Context, epoch: int) -> dict[str, float]:
    """Train `model` (bare, compiled or data-parallel) on every batch of `loader` once.

    Returns `loss` (without label smoothing), `prec1` and `prec3` (percent), `batch_time` and `data_time` (mean
    seconds). Raises `Stopped` after the batch in which a signal came.
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
    labels = torch.tensor([video.label for video, _ in loader.dataset.videos], device=device)
    totals = torch.zeros(4, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    # Reading a loss waits for the GPU, so there it is done for ten batches at once.
    check_every, unchecked = 1 if device.type == "cpu" else 10, []
    data_time, started = 0.0, time.perf_counter()
    bar = _bar(loader, f"epoch {epoch}", processes)
    waiting = time.perf_counter()
    for number, batch in enumerate(bar):
        data_time += time.perf_counter() - waiting
        _note_broken(batch, context)
        videos, stopping = sum_over(processes, [len(batch.positions), float(context.stop.signum > 0)])
        if stopping:
            raise Stopped
        for group in context.optimizer.param_groups if context.rate else ():
            group["lr"] = context.rate(epoch + (number + 0.5) / len(loader))
        if videos:
            size, world = batches.size(number), processes.world
            # Every process takes as many forward passes, however the videos are shared out.
            parts = min(context.accumulate, max(size // world, 1))
            # Gradients are averaged over processes.
            sums = _train_step(model, batch, labels, parts, world / videos, context)
            totals += sums / (world if size < world else 1)  # a batch smaller than their number went to all of them
            if context.averaged:
                context.averaged.update_parameters(getattr(model, "module", model))
        unchecked += batch.positions.tolist()
        if number % check_every == 0 or number + 1 == len(loader):
            loss, hits, _, seen = totals.tolist()
            if not math.isfinite(loss):
                names = [loader.dataset.videos[position].video.name for position in unchecked]
                raise UserError(
                    f"the loss is {loss} in epoch {epoch}, batch {number} (videos {first_names(names)}); "
                    "try a lower --lr, or --no-amp; the last checkpoint is untouched"
                )
            unchecked = []
            bar.set_postfix(loss=f"{loss / max(seen, 1):.4f}", prec1=f"{100 * hits / max(seen, 1):.2f}")
        waiting = time.perf_counter()
    loss, top1, top3, seen = sum_over(processes, totals.tolist())
    if not seen:
        raise UserError("every training video is broken or missing; check the data folder")
    figures = {"loss": loss / seen, "prec1": 100 * top1 / seen, "prec3": 100 * top3 / seen}
    seconds = {"batch_time": time.perf_counter() - started, "data_time": data_time}
    return figures | {name: value / len(loader) for name, value in seconds.items()}


def fit_classifier(model: Model, loader: VideoLoader, context: Context) -> dict[str, float]:
    """Fit the network's classifier alone to the videos of `loader` (linear probing): logistic regression by L-BFGS.

    It sees a video's features, means over the clips of a test, standardised, with an L2 penalty on the weights; mean
    and deviation then go into the classifier. Returns what `train_one_epoch` does.
    """
    started = time.perf_counter()
    found = _run_network(
        without_classifier(model.network), loader, context, "features", lambda vectors: vectors.mean(1)
    )
    features = torch.from_numpy(np.stack([vector for _, vector in found]))
    labels = torch.tensor([video.label for video, _ in found])
    deviation, mean = torch.std_mean(features, 0, correction=0)
    scale = deviation + 1e-3
    features = (features - mean) / scale
    last = classifier(model.network)
    weight = torch.zeros(last.weight.shape, requires_grad=True)
    bias = torch.zeros(last.bias.shape, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        logits = F.linear(features, weight, bias)
        last.weight.copy_(weight / scale)
        last.bias.copy_(bias - last.weight.cpu() @ mean)
    prec1, prec3 = precision(logits.numpy(), labels.numpy())
    seconds = (time.perf_counter() - started) / max(len(loader), 1)
    figures = {"loss": F.cross_entropy(logits, labels).item(), "prec1": prec1, "prec3": prec3}
    return figures | {"batch_time": seconds, "data_time": 0.0}


def _train_step(
    model: nn.Module, batch: Batch, labels: torch.Tensor, parts: int, weight: float, context: Context
) -> torch.Tensor:
    """One optimiser step on this process's videos of a batch, in `parts`, each video's loss times `weight`.

    A video's clips go through the network together; the consensus is the mean of their logits, the loss its
    cross-entropy (TSN, arXiv 1608.00859). `labels` are those of the whole data set. Returns the sums (loss, Prec@1
    hits, Prec@3 hits, videos).
    """
    stream, images, index = context.stream, batch.images, batch.index
    if images is None:  # all of this process's videos are broken, and it takes part in the others' step
        images = torch.zeros(1, 64, 64, stream.in_channels // stream.length, dtype=torch.uint8)
        index = torch.zeros(0, stream.length, dtype=torch.int64)
    images, index, positions = context.move(images, index, batch.positions)
    index = index.view(len(positions), len(index) // max(len(positions), 1), stream.length)
    context.optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(4, dtype=torch.float32, device=context.device)
    for i, part in enumerate(torch.arange(len(positions), device=context.device).tensor_split(parts)):
        rows, targets, share = index[part].flatten(0, 1), labels[positions[part]], weight
        if not len(part):  # one clip that counts for nothing
            rows, targets, share = rows.new_zeros(1, stream.length), targets.new_zeros(1), 0
        waits = i + 1 < parts and hasattr(model, "no_sync")  # processes exchange gradients once a step
        with model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]  # a method
            with torch.autocast(context.device.type, enabled=context.amp):
                logits = model(stream.to_input(images, rows))
            consensus = logits.float().view(len(targets), -1, logits.shape[1]).mean(1)
            loss = F.cross_entropy(consensus, targets, reduction="sum", label_smoothing=context.label_smoothing)
            context.scaler.scale(loss * share).backward()
        if len(part):
            with torch.no_grad():
                plain = F.cross_entropy(consensus, targets, reduction="sum")  # as the test's, which smooths nothing
                hits = consensus.topk(min(3, consensus.shape[1])).indices == targets[:, None]
                count = hits.new_tensor(len(part), dtype=loss.dtype)
                totals += torch.stack([plain, hits[:, 0].sum(), hits.sum(), count])
    if context.clip_gradients:
        context.scaler.unscale_(context.optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), context.clip_gradients)
    context.scaler.step(context.optimizer)
    context.scaler.update()
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
    videos, scores = [video for video, _ in merged], np.stack([vector for _, vector in merged])
    finite = np.isfinite(scores).all(1)
    if not finite.all():
        raise UserError(f"the network's scores of video {videos[int(np.argmin(finite))].name!r} are not finite")
    labels = np.array([video.label for video in videos])
    prec1, prec3 = precision(scores, labels)
    return {
        "loss": F.cross_entropy(torch.from_numpy(scores).double(), torch.from_numpy(labels)).item(),
        "prec1": prec1,
        "prec3": prec3,
        "batch_time": seconds / max(len(loader), 1),
        "scores": dict(zip([video.name for video in videos], scores, strict=True)),
    }


def extract_features(model: Model, loader: VideoLoader, context: Context, what: str) -> dict[str, np.ndarray]:
    """What the classifier of the network sees of each clip of each video, float32 (clips, D) by name."""
    network = without_classifier(model.network)
    features = _run_network(network, loader, context, f"{what} features", lambda vectors: vectors)
    return {video.name: vectors for video, vectors in features}


@torch.inference_mode()
def _run_network(
    network: nn.Module, loader: VideoLoader, context: Context, what: str, reduce: Callable
) -> list[tuple[Video, np.ndarray]]:
    """Every video of all processes, in the order of the list, with the network's `reduce`d outputs (clips, D) on it.

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
    return [(loader.dataset.videos[position].video, merged[position]) for position in sorted(merged)]


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


def _bar(loader: VideoLoader, text: str, processes: Processes) -> tqdm:
    return tqdm(loader, desc=text, disable=None if processes.main else True, dynamic_ncols=True, leave=False)


# ---- optimiser, learning rate, average of the weights ----


def context_of_training(args: Namespace, network: nn.Module, context: Context) -> Context:
    """The context with optimiser, scaler, learning rate over time and moving average, as the options say."""
    cuda = context.device.type == "cuda"
    optimizer = make_optimizer(args, network.parameters(), fused=cuda)
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.amp and cuda)
    averaged = average_weights(network, args.ema) if args.ema else None
    rate = None if args.schedule == "plateau" else lambda epoch: args.lr * rate_factor(args, epoch)
    return replace(context, optimizer=optimizer, scaler=scaler, averaged=averaged, rate=rate)


def make_optimizer(args: Namespace, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (arXiv 1412.6980), as the recipe says."""
    if args.optimizer == "adam":
        return torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay, fused=fused)
    optimizer = torch.optim.SGD(parameters, args.lr, args.momentum, weight_decay=args.weight_decay, fused=fused)
    start_momentum(optimizer)
    return optimizer


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros for the momentum that the fused SGD lacks: of a first step that a scaler skips it keeps raw memory."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def rate_factor(args: Namespace, epoch: float) -> float:
    """What the learning rate is multiplied with at `epoch`, a whole number of epochs and the part of the next.

    A linear rise over `warmup` epochs (arXiv 1706.02677), then 1; with the cosine schedule from 1 to 0 along half a
    cosine (SGDR without restarts, arXiv 1608.03983). `ReduceLROnPlateau` keeps its own account.
    """
    if epoch < args.warmup:
        return epoch / args.warmup
    if args.schedule != "cosine":
        return 1.0
    progress = (epoch - args.warmup) / max(args.epochs - args.warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `network`'s weights and batch-norm statistics; `update_parameters` adds to it.

    Until there have been enough updates its memory is shorter, (1 + n) / (10 + n), so that the random weights of the
    start do not stay in it.
    """

    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor) -> None:
        keep = torch.clamp((1 + updates) / (10 + updates), max=decay)
        for mean, new in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.mul_(keep).add_(new * (1 - keep))  # in place: copies would take a quarter of a step's time
            else:  # batch norm's count of batches
                mean.copy_(new)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)  # type: ignore[arg-type]  # it has tuples


def wrap(network: nn.Module, args: Namespace, context: Context) -> nn.Module:
    """What the epochs train: the network, compiled or spread over processes where asked for."""
    if context.processes.world > 1:
        if args.sync_bn:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        device_ids = [context.device] if context.device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(network, device_ids=device_ids)
    return torch.compile(network) if args.compile else network  # type: ignore[return-value]  # of a module, a module
