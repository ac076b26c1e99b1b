"""The epoch loop: records, best model, checkpoints, and going on from one."""
import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from dataloader.video_dataset import EpochBatches, VideoDataset, training_loader
from distributed import Processes
from engine import Context, evaluate, train_one_epoch
from files import UserError
from network import describe_state_dict, torchvision_names
from plots import plot_curves
from safe_pickle import save_scores
from utils import check_training_state, load_checkpoint, save_checkpoint, shown, write_record


@dataclass(frozen=True)
class Stream:
    """What tells one stream from the other.

    `sample(video, generator, image_size)` reads a video's images, `length` of them to a clip; `mean` and
    `std` normalise them (None: values stay in [0, 1]); records are called `<prefix>_train.csv`, ….
    `prepare(root, videos)` finds the videos: it returns good ones, bad ones with the reason, and `sample`.
    """

    name: str
    prefix: str
    length: int
    prepare: Callable
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @property
    def in_channels(self) -> int:
        """Input channels of the network: RGB times the images of a clip."""
        return 3 * self.length


@dataclass
class Model:
    """A network with what describes it, and the checkpoint it came from, if any."""

    network: nn.Module
    arch: str
    image_size: int
    seed: int
    classes: list[str]
    checkpoint: dict | None = None


@dataclass(frozen=True)
class SavedNetwork:
    """A checkpoint's network: its `state` in torchvision's names, `arch`, and number of classes.

    `classes` (their names), `image_size` and `seed` are None where the checkpoint does not tell them.
    """

    checkpoint: dict
    state: dict[str, torch.Tensor]
    arch: str
    num_classes: int
    classes: list[str] | None
    image_size: int | None
    seed: int | None


def read_network(path: str | os.PathLike, stream: Stream) -> SavedNetwork:
    """Read a checkpoint of `stream`, written by this code or the original's.

    Raises `UserError` if it is no checkpoint, one of another stream, or describes its network oddly.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path}: has no state_dict, so it is no checkpoint of a stream; give one that training wrote")
    state = torchvision_names(state)
    arch, channels, count = describe_state_dict(state, path)
    if channels != stream.in_channels:
        raise UserError(
            f"{path}: its network takes {channels} input channels, the {stream.name} stream has "
            f"{stream.in_channels}; give a checkpoint of the {stream.name} stream"
        )
    names, size, seed = (checkpoint.get(name) for name in ("classes", "image_size", "seed"))
    if names is not None:
        valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not valid or not len(names) == len(set(names)) == count:
            raise UserError(f"{path}: its 'classes' are not the names of its network's {count} classes; it is damaged")
    if size is not None and (type(size) is not int or not 32 <= size <= 4096):
        raise UserError(f"{path}: its 'image_size' is {shown(size)}, not a number of pixels; it is damaged")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**31):
        raise UserError(f"{path}: its 'seed' is {shown(seed)}, not a whole number; it is damaged")
    return SavedNetwork(checkpoint, state, arch, count, names, size, seed)


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


def _try_steps(
    optimizer: torch.optim.Optimizer, scheduler_state: Mapping | None, scaler_state: Mapping | None
) -> None:
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
