"""The epoch loop: records, best model, checkpoints, and going on from one."""

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from common.cli import UserError
from dataloader.video_dataset import EpochBatches, VideoDataset, training_loader
from fusion.plots import plot_curves
from fusion.scores import save_scores
from training.distributed import Processes
from training.engine import Context, evaluate, train_one_epoch
from training.streams import Stream
from utils import save_checkpoint, shown, write_record


@dataclass
class Model:
    """A network with what describes it, and the checkpoint it came from, if any."""

    network: nn.Module
    arch: str
    image_size: int
    seed: int
    classes: list[str]
    checkpoint: dict | None = None


def fit(
    args: argparse.Namespace,
    stream: Stream,
    model: Model,
    train_set: VideoDataset,
    watched: DataLoader,
    context: Context,
    what: str,
) -> dict:
    """Train from where the model's checkpoint ended to `args.epochs`.

    The scheduler and the best model look at `watched`, the `what` ("test" or "val") list. Each epoch writes
    its records, scores and model if they are the best, a picture of the curves, and the checkpoint, in that
    order: a run killed in between repeats the epoch and writes the same again. Returns the figures of the
    last epoch and `best_prec1`.
    """
    processes, device, record = context.processes, context.device, Path(args.record)
    batches = EpochBatches(len(train_set), args.batch_size, model.seed, processes.rank, processes.world)
    loader = training_loader(train_set, batches, args.workers, pin=device.type == "cuda")
    parameters = model.network.parameters()
    lr = args.lr or args.default_lr
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=args.momentum, fused=device.type == "cuda")
    scheduler = ReduceLROnPlateau(optimizer, "min", patience=args.lr_patience)
    scaler = torch.amp.GradScaler(device.type, enabled=context.amp and device.type == "cuda")
    first, best = 0, -1.0
    if model.checkpoint is not None:
        first, best = go_on_from(model.checkpoint, args.resume, optimizer, scheduler, scaler)
        if args.lr:
            for group in optimizer.param_groups:
                group["lr"] = args.lr
    if args.start_epoch is not None:
        first = args.start_epoch
    if first >= args.epochs and processes.main:
        print(f"{first} epochs are done, --epochs {args.epochs} asks for no more")
    trained = wrap(model.network, args, processes, device)
    train_csv, watched_csv = record / f"{stream.prefix}_train.csv", record / f"{stream.prefix}_{what}.csv"
    figures = {}
    for epoch in range(first, args.epochs):
        begun, lr = time.time(), optimizer.param_groups[0]["lr"]
        figures["train"] = train_one_epoch(trained, loader, optimizer, scaler, context, epoch)
        figures[what] = evaluate(model.network, watched, context, what)
        scores = figures[what].pop("scores")
        scheduler.step(figures[what]["loss"])
        is_best = figures[what]["prec1"] > best
        best = max(best, figures[what]["prec1"])
        if not processes.main:
            continue
        write_record(train_csv, _row(epoch, figures["train"]) | {"lr": lr})
        write_record(watched_csv, _row(epoch, figures[what]))
        plot_curves(train_csv, watched_csv, record / "curves.png")
        checkpoint = {
            "epoch": epoch + 1,
            "arch": model.arch,
            "classes": model.classes,
            "in_channels": stream.in_channels,
            "image_size": model.image_size,
            "seed": model.seed,
            "state_dict": model.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "best_prec1": best,
            "batch_size": args.batch_size,
            "split": args.split,
            "val_groups": list(args.val_groups),
        }
        if is_best:
            save_scores(scores_path(record, stream, what), scores)
            save_checkpoint(record / "model_best.pth.tar", checkpoint)
        save_checkpoint(record / "checkpoint.pth.tar", checkpoint)
        print(
            f"epoch {epoch}: train loss {figures['train']['loss']:.4f} Prec@1 {figures['train']['prec1']:.2f}, "
            f"{what} loss {figures[what]['loss']:.4f} Prec@1 {figures[what]['prec1']:.2f} "
            f"Prec@3 {figures[what]['prec3']:.2f}, lr {lr:g}, {time.time() - begun:.0f} s{' (best)' * is_best}",
            flush=True,
        )
    return figures | {"best_prec1": best}


def go_on_from(
    checkpoint: dict,
    path: str | os.PathLike,
    optimizer: torch.optim.Optimizer,
    scheduler: ReduceLROnPlateau,
    scaler: torch.amp.GradScaler,
) -> tuple[int, float]:
    """Restore optimiser, scheduler and scaler; returns (next epoch, best Prec@1). Raises `UserError`."""
    state = check_training_state(checkpoint, path)
    try:
        if state["optimizer"] is not None:
            fused = optimizer.param_groups[0]["fused"]  # depends on this run's device, not the saved one's
            optimizer.load_state_dict(state["optimizer"])
            for group in optimizer.param_groups:
                group["fused"] = fused
            for parameter, buffers in optimizer.state.items():
                momentum = buffers.get("momentum_buffer")
                if momentum is not None and momentum.shape != parameter.shape:
                    raise ValueError(f"a momentum has shape {tuple(momentum.shape)}, not {tuple(parameter.shape)}")
        if state["scheduler"] is not None:
            scheduler.load_state_dict(state["scheduler"])
        _try_steps(optimizer, state["scheduler"], state["scaler"])
        if state["scaler"]:
            scaler.load_state_dict(state["scaler"])
    except Exception as error:  # what a stranger's checkpoint holds may fail in any way
        raise UserError(f"{path}: its training state does not fit this network: {error}") from None
    return state["epoch"], state["best_prec1"]


def check_training_state(checkpoint: Mapping, path: str | os.PathLike) -> dict:
    """The entries of a checkpoint that training goes on from, of checked types.

    Returns `epoch` (epochs completed), `best_prec1`, `optimizer`, `scheduler` and `scaler` (dicts, or None
    where the checkpoint has none), `seed` (or None). The original code stored the index of the last epoch
    instead of the number of completed ones; such checkpoints are known by their lack of `in_channels`.
    Raises `UserError` naming a missing or odd entry.
    """
    epoch, best = checkpoint.get("epoch"), checkpoint.get("best_prec1")
    if isinstance(best, torch.Tensor) and best.numel() == 1:
        best = best.item()
    if type(epoch) is not int or not 0 <= epoch < 10**9:
        raise UserError(f"{path}: its 'epoch' is {shown(epoch)}, not a number of epochs; it is no checkpoint to resume")
    if type(best) not in (int, float) or not -1 <= best < 101:
        raise UserError(f"{path}: its 'best_prec1' is {shown(best)}, not in percent; it is no checkpoint to resume")
    state = {"epoch": epoch if "in_channels" in checkpoint else epoch + 1, "best_prec1": float(best)}
    for name in ("optimizer", "scheduler", "scaler"):
        entry = checkpoint.get(name)
        if entry is not None and not isinstance(entry, Mapping):
            raise UserError(f"{path}: its {name!r} is a {type(entry).__name__}, not a state dict")
        state[name] = entry
    state["seed"] = checkpoint.get("seed")
    return state


def _try_steps(optimizer: torch.optim.Optimizer, scheduler_state: Mapping | None, scaler_state: Mapping | None) -> None:
    """Raise whatever a step or two with these settings, on a single weight, raise: better now than after an epoch."""
    weight = torch.zeros(1, requires_grad=True)
    (group,) = optimizer.param_groups
    settings = {name: value for name, value in group.items() if name != "params"}
    if not 0 < settings["lr"] < float("inf"):
        raise ValueError(f"its learning rate is {shown(settings['lr'])}")
    trial = torch.optim.SGD([weight], lr=1)
    trial.param_groups[0] = settings | {"params": [weight]}
    scheduler, scaler = ReduceLROnPlateau(trial, "min"), torch.amp.GradScaler("cpu")
    scheduler.load_state_dict(scheduler_state or {})
    if scaler_state:
        scaler.load_state_dict(scaler_state)
    for loss in (float("inf"), 0.0):  # a worse epoch and a better one
        trial.zero_grad()
        scaler.scale(weight.sum()).backward()
        scaler.step(trial)
        scaler.update()
        scheduler.step(loss)
    if not all(torch.isfinite(weight)) or scheduler.optimizer is not trial:
        raise ValueError("its optimiser or scheduler does no sensible step")


def wrap(network: nn.Module, args: argparse.Namespace, processes: Processes, device: torch.device) -> nn.Module:
    """What the epochs train: the network, compiled or spread over processes where asked for."""
    trained = network
    if args.sync_bn and processes.world > 1:
        if device.type != "cuda":
            raise UserError("--sync-bn needs CUDA devices, as torch's SyncBatchNorm does; try --freeze-bn on CPUs")
        trained = nn.SyncBatchNorm.convert_sync_batchnorm(trained)
    if processes.world > 1:
        device_ids = [device] if device.type == "cuda" else None
        trained = nn.parallel.DistributedDataParallel(trained, device_ids=device_ids)
    return torch.compile(trained) if args.compile else trained


def scores_path(record: str | os.PathLike, stream: Stream, what: str) -> Path:
    """Where a stream's scores per video go: `…_video_preds.pickle`, or `…_video_val_preds.pickle`."""
    return Path(record, f"{stream.name}_video_{'val_' if what == 'val' else ''}preds.pickle")


def _row(epoch: int, result: dict[str, float]) -> dict:
    times = {"Batch Time": result["batch_time"]}
    if "data_time" in result:
        times["Data Time"] = result["data_time"]
    return {"Epoch": epoch, **times, "Loss": result["loss"], "Prec@1": result["prec1"], "Prec@3": result["prec3"]}
