"""The epochs of a training run: records, model selection, checkpoints."""

import math
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from dataloader.video_dataset import VideoLoader
from fusion.plots import plot_curves
from fusion.scores import save_scores
from network import Model, add_dropout
from training.engine import Context, evaluate, train_one_epoch
from training.options import kept_options
from training.resume import BEST, CHECKPOINT, record_path, resume_averaging, resume_training, scores_path
from utils import save_checkpoint, write_record

SELECTION = {"val": "validation set", "test": "test list"}
UNSAVED_SECONDS = 5  # of epochs without a test that a kill may cost: writing can take longer than training a head


def fit(args: Namespace, model: Model, loaders: dict[str, VideoLoader], context: Context, about: dict) -> dict:
    """Train from where the model's checkpoint ended to `args.epochs`.

    `loaders` are those of "train" and of what the scheduler and model selection use, "val" or "test"; `about` is for
    the checkpoints. Each epoch writes its records, the scores and the model if they are the best, the curves, and the
    checkpoint (unless there was one seconds before, and no test since), in that order: a run killed in between repeats
    epochs and writes the same again. Returns the figures of the last epoch and `best_prec1`.
    """
    stream, record, main = context.stream, args.record, context.processes.main
    selection = "val" if "val" in loaders else "test"
    train_csv, selection_csv = (record_path(record, stream, what) for what in ("train", selection))
    latest = args.schedule == "cosine"  # of equally good epochs, which are many where videos are few
    cuda = context.device.type == "cuda"
    optimizer = make_optimizer(args, model.network.parameters(), fused=cuda)
    scheduler = ReduceLROnPlateau(optimizer, "min", patience=1)
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.amp and cuda)
    if args.schedule != "plateau":
        context = replace(context, rate=lambda epoch: args.lr * rate_factor(args, epoch))
    if args.dropout:
        add_dropout(model.network, args.dropout)
    tested_model = model
    if args.ema:
        context = replace(context, averaged=average_weights(model.network, args.ema))
        tested_model = replace(model, network=context.averaged.module)
    first, best = 0, -1.0
    if model.checkpoint and not model.checkpoint.get("optimizer"):
        if main:
            print(f"{model.path}: has no optimiser state; training begins anew from its weights")
    elif model.checkpoint:
        first, best = resume_training(model, args.changed, optimizer, scheduler, scaler)
        resume_averaging(model, context.averaged)
        if not (record / BEST).exists() and best >= 0:
            best = -1.0
            if main:
                print(f"{record} has no {BEST}: model selection starts anew")
    start_momentum(optimizer)
    data = f"{args.data}, split {args.split}; " if args.data else ""
    title = f"{stream.name} stream, {model.arch}\n{data}model selected on the {SELECTION[selection]}"
    first = first if args.start_epoch is None else args.start_epoch
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
        write_record(train_csv, _row(epoch, train) | {"lr": lr})
        result = ""
        if tested:
            write_record(selection_csv, _row(epoch, tested))
            name = {"val": "validation"}.get(selection, selection)
            records = pd.read_csv(train_csv), pd.read_csv(selection_csv)
            plot_curves(*records, name, record / "curves.png", title, latest)
            result = f"{selection} {figures_in_words(tested)}, "
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
            "options": kept_options(args),
            **about,
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
        print(
            f"epoch {epoch}: train loss {train['loss']:.4f} Prec@1 {train['prec1']:.2f}, {result}lr {lr:g}, "
            f"{time.time() - begun:.0f} s{' (best)' * is_best}",
            flush=True,
        )
    model.network = tested_model.network
    return figures | {"best_prec1": best}


def wrap(network: nn.Module, args: Namespace, context: Context) -> nn.Module:
    """What the epochs train: the network, compiled or spread over processes where asked for."""
    trained, several = network, context.processes.world > 1
    if args.sync_bn and several:
        trained = nn.SyncBatchNorm.convert_sync_batchnorm(trained)
    if several:
        device_ids = [context.device] if context.device.type == "cuda" else None
        trained = nn.parallel.DistributedDataParallel(trained, device_ids=device_ids)
    return torch.compile(trained) if args.compile else trained  # type: ignore[return-value]  # of a module, a module


def figures_in_words(result: dict[str, float]) -> str:
    """Loss and accuracies."""
    return f"loss {result['loss']:.4f} Prec@1 {result['prec1']:.2f} Prec@3 {result['prec3']:.2f}"


def _row(epoch: int, result: dict[str, float]) -> dict:
    columns = {"Batch Time": "batch_time", "Data Time": "data_time"}
    columns |= {"Loss": "loss", "Prec@1": "prec1", "Prec@3": "prec3"}
    return {"Epoch": epoch} | {column: result[name] for column, name in columns.items() if name in result}


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
