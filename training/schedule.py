"""The optimiser, the learning rate over a run, and the average of its weights."""

import math
from argparse import Namespace
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


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
