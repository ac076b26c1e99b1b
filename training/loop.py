"""The epochs of a training run: records, model selection, checkpoints."""

import math
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from common.cli import UserError
from dataloader.video_dataset import VideoLoader
from fusion.plots import plot_curves
from fusion.scores import save_scores
from network import Model, add_dropout
from training.engine import Context, evaluate, train_one_epoch
from training.resume import (
    BEST,
    CHECKPOINT,
    options_of,
    record_path,
    resume_averaging,
    resume_training,
    scores_path,
    selected_on,
)
from utils import read_record, save_checkpoint, write_record

UNSAVED_SECONDS = 5  # of epochs without a test that a kill may cost: writing can take longer than training a head


def fit(args: Namespace, model: Model, loaders: dict[str, VideoLoader], context: Context, changed: dict) -> dict:
    """Train from where the model's checkpoint ended to `args.epochs`.

    `loaders` are those of "train" and of what the scheduler and model selection use, "val" or "test". `changed`
    are the options in which a resumed run differs from its checkpoint. Each epoch writes its records, the scores
    and the model if they are the best, the curves, and the checkpoint (unless there was one seconds before, and no
    test since), in that order: a run killed in between repeats epochs and writes the same again. Returns the figures
    of the last epoch and `best_prec1`.
    """
    stream, record, main = context.stream, args.record, context.processes.main
    selection = "val" if "val" in loaders else "test"
    latest = args.schedule == "cosine"  # of equally good epochs, which are many where videos are few
    cuda = context.device.type == "cuda"
    optimizer = make_optimizer(args, model.network.parameters(), fused=cuda)
    scheduler = ReduceLROnPlateau(optimizer, "min", patience=args.lr_patience)
    if args.schedule != "plateau":
        context.rate = lambda epoch: args.lr * rate_factor(args, epoch)
    if args.dropout:
        add_dropout(model.network, args.dropout)
    tested_model = model
    if args.ema:
        context.averaged = average_weights(model.network, args.ema)
        tested_model = replace(model, network=context.averaged.module)
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.amp and cuda)
    first, best = 0, -1.0
    if model.checkpoint and not model.checkpoint.get("optimizer"):
        if main:
            print(f"{model.path}: has no optimiser state; training begins anew from its weights")
    elif model.checkpoint:
        first, best = resume_training(model, changed, optimizer, scheduler, scaler)
        resume_averaging(model, context.averaged)
        if not (record / BEST).exists() and best >= 0:
            best = -1.0
            if main:
                print(f"{record} has no {BEST}: model selection starts anew")
    start_momentum(optimizer)
    if args.start_epoch is not None:
        first = args.start_epoch
    if first >= args.epochs and main:
        print(f"{first} epochs are done, --epochs {args.epochs} asks for no more")
    trained = wrap(model.network, args, context)
    figures, saved = {}, time.monotonic()
    for epoch in range(first, args.epochs):
        begun = time.time()
        train = figures["train"] = train_one_epoch(trained, loaders["train"], optimizer, scaler, context, epoch)
        lr, is_best, tested = optimizer.param_groups[0]["lr"], False, None
        if (epoch + 1) % args.test_every == 0 or epoch + 1 == args.epochs:
            tested = figures[selection] = evaluate(tested_model, loaders[selection], context, selection)
            scores = tested.pop("scores")
            if args.schedule == "plateau":
                scheduler.step(tested["loss"])
            is_best = tested["prec1"] > best or (tested["prec1"] == best and latest)
            best = max(best, tested["prec1"])
        if not main:
            continue
        train_csv, selection_csv = (record_path(record, stream, what) for what in ("train", selection))
        write_record(train_csv, _row(epoch, train) | {"lr": lr})
        if tested:
            write_record(selection_csv, _row(epoch, tested))
            records = read_record(train_csv), read_record(selection_csv)
            name = {"val": "validation"}.get(selection, selection)
            plot_curves(*records, name, record / "curves.png", _title(args, model, context), latest)
        checkpoint = {
            "epoch": epoch + 1,
            "arch": model.arch,
            "classes": model.classes,
            "in_channels": stream.in_channels,
            "image_size": model.image_size,
            "state_dict": tested_model.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "best_prec1": best,
            "options": options_of(args),
            "training_videos": context.training_videos,
            "frames": context.frames,
            "poses": context.poses,
        }
        if context.averaged:
            checkpoint["training_state_dict"] = model.network.state_dict()
            checkpoint["averaged_steps"] = int(context.averaged.n_averaged)
        if is_best:
            save_scores(scores_path(record, stream, selection), scores)
            save_checkpoint(record / BEST, checkpoint)
        if tested or time.monotonic() - saved > UNSAVED_SECONDS:
            save_checkpoint(record / CHECKPOINT, checkpoint)
            saved = time.monotonic()
        result = ""
        if tested:
            result = (
                f"{selection} loss {tested['loss']:.4f} Prec@1 {tested['prec1']:.2f} Prec@3 {tested['prec3']:.2f}, "
            )
        print(
            f"epoch {epoch}: train loss {train['loss']:.4f} Prec@1 {train['prec1']:.2f}, {result}"
            f"lr {lr:g}, {time.time() - begun:.0f} s{' (best)' * is_best}",
            flush=True,
        )
    model.network = tested_model.network
    return figures | {"best_prec1": best}


def wrap(network: nn.Module, args: Namespace, context: Context) -> nn.Module:
    """What the epochs train: the network, compiled or spread over processes where asked for."""
    trained, device, several = network, context.device, context.processes.world > 1
    if args.sync_bn and several:
        if device.type != "cuda":
            raise UserError("--sync-bn needs CUDA devices, as torch's SyncBatchNorm does; try --freeze-bn on CPUs")
        trained = nn.SyncBatchNorm.convert_sync_batchnorm(trained)
    if several:
        device_ids = [device] if device.type == "cuda" else None
        trained = nn.parallel.DistributedDataParallel(trained, device_ids=device_ids)
    return torch.compile(trained) if args.compile else trained  # type: ignore[return-value]  # of a module, a module


def _title(args: Namespace, model: Model, context: Context) -> str:
    data = f"{args.data}, split {args.split}; " if args.data else ""
    return f"{context.stream.name} stream, {model.arch}\n{data}model selected on the {selected_on(args)}"


def _row(epoch: int, result: dict[str, float]) -> dict:
    times = {"Batch Time": result["batch_time"]}
    if "data_time" in result:
        times["Data Time"] = result["data_time"]
    return {"Epoch": epoch, **times, "Loss": result["loss"], "Prec@1": result["prec1"], "Prec@3": result["prec3"]}


# ---- optimiser, learning rate, average of the weights ----


def make_optimizer(args: Namespace, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (arXiv 1412.6980), as the recipe says."""
    if args.optimizer == "adam":
        return torch.optim.Adam(parameters, args.lr, weight_decay=args.weight_decay, fused=fused)
    return torch.optim.SGD(parameters, args.lr, args.momentum, weight_decay=args.weight_decay, fused=fused)


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros for the momentum that the fused SGD lacks: of a first step that a scaler skips it keeps raw memory."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def rate_factor(args: Namespace, epoch: float) -> float:
    """What the learning rate is multiplied with at `epoch`, a whole number of epochs and the part of the next.

    cosine: from 1 to 0 along half a cosine (SGDR without restarts, arXiv 1608.03983). step: a tenth from each of
    `lr_steps` on (TSN, arXiv 1608.00859). Both start with a linear rise over `warmup` epochs (arXiv 1706.02677).
    plateau: 1, for `ReduceLROnPlateau` keeps its own account.
    """
    if args.schedule == "plateau":
        return 1.0
    if epoch < args.warmup:
        return epoch / args.warmup
    if args.schedule == "step":
        return 0.1 ** sum(epoch >= start for start in args.lr_steps)
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
