"""What a checkpoint holds of a run, and training on from it."""

import contextlib
import hashlib
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout  # which torch needs as well
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.atomic import recover_folders
from common.cli import UserError
from common.records import alike, common_rate, root_record, settings_of
from common.video import own_rate
from dataloader.frame_index import holds_videos
from dataloader.names import find_videos
from dataloader.split_train_test_video import Split, Video
from fusion.metrics import calibrate
from fusion.scores import load_scores
from network import Model, classifier, load_strictly
from training.engine import Context, start_momentum
from training.streams import Stream, video_settings
from utils import load_checkpoint, save_checkpoint

CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth.tar"
RATED = 64  # videos whose rates of frames are looked at
LEAST_VIDEOS = 20  # of validation; from three, temperatures of 0.1 and 100 were seen


def fingerprint(videos: Sequence[Video]) -> str:
    """A hash of the names and classes of videos, whatever their order."""
    lines = "\n".join(sorted(f"{video.name} {video.class_name}" for video in videos))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def check_same_videos(args: Namespace, model: Model, split: Split) -> None:
    """Raise `UserError` unless the checkpoint was trained on this split's training videos and classes.

    Otherwise a test may score videos that the network was trained on. `--allow-other-split` insists.
    """
    count = classifier(model.network).out_features
    if count != len(split.classes) or model.classes not in (None, split.classes):
        raise UserError(
            f"{args.resume}: was trained on {count} classes, the class index lists {len(split.classes)} or others; "
            "choose the --class-index it was trained with"
        )
    trained_on, saved = model.checkpoint.get("training_videos"), model.checkpoint.get("options", {})
    unknown = trained_on is None and not split.val  # the original code's
    if not (unknown or trained_on == fingerprint(split.train) or args.allow_other_split):
        held_out = saved.get("val_list") or ",".join(map(str, saved.get("val_groups", ()))) or "none"
        own = f"split {saved.get('split')}, validation set {held_out}" if trained_on else "not known"
        raise UserError(
            f"{args.resume}: was trained on other videos than the training list names (its own: {own}), so a test "
            "could score training videos; give its own lists, or insist with --allow-other-split"
        )


def how_data_were_made(args: Namespace, model: Model | None, say: bool) -> dict[str, dict | None]:
    """How the `frames` of `args.data` were made, and how their people were found and cleaned (`poses`).

    What the data do not tell is as in the checkpoint, None if that does not tell either. With `say`, a line on stderr
    if the two differ, for then the network sees another tempo, size, or other people.
    """
    checkpoint = model.checkpoint if model else {}
    trained: dict = {"frames": settings_of(checkpoint), "poses": checkpoint.get("poses")}
    found: dict = {}
    if args.data and args.data.is_dir():
        record = root_record(args.data)
        found = {"frames": settings_of(record), "poses": record.get("people")}
        if holds_videos(args.data):
            settings = video_settings(args)
            rates = map(own_rate, islice(find_videos(args.data).values(), RATED))
            rate = common_rate(float(settings.per_second(rate)) if rate else None for rate in rates)
            found["frames"] = replace(settings, rate=rate)
    if getattr(args, "keypoints", None):
        found["poses"] = root_record(args.keypoints).get("people")
    for what, done in (("frames", "frames were made"), ("poses", "people were found")):
        here, there = found.get(what), trained[what]
        if say and here and there and (here != there or what == "frames" and not alike(here.rate, there.rate)):
            print(f"{args.data}: its {done} with {here}, those of {args.resume} with {there}", file=sys.stderr)
    frames, poses = (found.get(what) or trained[what] for what in ("frames", "poses"))
    return {"frames": asdict(frames) if frames else None, "poses": poses}


def resume_training(
    model: Model, changed: Mapping, context: Context, scheduler: ReduceLROnPlateau
) -> tuple[int, float]:
    """Restore optimiser, scaler, moving average and scheduler from the checkpoint that `model` was read from.

    `changed` are the options that differ from the checkpoint's: those of the optimiser are applied. Returns the number
    of epochs done and the best Prec@1. The original code stored the index of the last epoch instead; such checkpoints
    are known by their lack of `in_channels`.
    """
    checkpoint, optimizer, averaged = model.checkpoint, context.optimizer, context.averaged
    fused = optimizer.param_groups[0]["fused"]  # depends on this run's device, not the saved one's
    optimizer.load_state_dict(checkpoint["optimizer"])
    for group in optimizer.param_groups:
        group.update({name: new for name, new in changed.items() if name in ("lr", "momentum", "weight_decay")})
        group["fused"] = fused
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # In its parameter's memory layout: the fused optimisers take that for granted.
                state[name] = torch.empty_like(parameter).copy_(value)
    start_momentum(optimizer)
    if checkpoint.get("scheduler"):
        scheduler.load_state_dict(checkpoint["scheduler"])
    if checkpoint.get("scaler"):
        context.scaler.load_state_dict(checkpoint["scaler"])
    if averaged is not None and "training_state_dict" in checkpoint:
        # The checkpoint's network, which `averaged` holds, is the average; what is trained is beside it.
        averaged.n_averaged.fill_(checkpoint["averaged_steps"])
        load_strictly(model.network, checkpoint["training_state_dict"], model.path)
    return checkpoint["epoch"] + ("in_channels" not in checkpoint), checkpoint["best_prec1"]


# ---- the folder that a run writes to ----


def scores_path(record: Path, stream: Stream, what: str) -> Path:
    """Where a stream's scores per video go: `…_video_preds.pickle`, or `…_video_val_preds.pickle`."""
    return record / f"{stream.name}_video_{'val_' if what == 'val' else ''}preds.pickle"


def record_path(record: Path, stream: Stream, what: str) -> Path:
    """Where the record of the epochs goes; `what` is train, val or test."""
    return record / f"{stream.prefix}_{what}.csv"


def run_files(record: Path, stream: Stream) -> list[Path]:
    """The files of a run of `stream` that `record` holds."""
    names = [record / name for name in (CHECKPOINT, BEST, "curves.png", "summary.json", "evaluation.json")]
    names += [scores_path(record, stream, what) for what in ("val", "test")]
    names += [record_path(record, stream, what) for what in ("train", "val", "test")]
    return [path for path in names if path.exists()]


def check_record(args: Namespace, stream: Stream) -> None:
    """Raise `UserError` if `args.record` holds a run that is not the one of `--resume`, nor to be overwritten."""
    record, files = args.record, run_files(args.record, stream)
    own = args.resume is not None and args.resume.resolve().parent == record.resolve()
    if args.overwrite and own:
        raise UserError(f"--overwrite would remove {args.resume}, which --resume needs; leave one of them out")
    # A run that ended before its first checkpoint left nothing that could be resumed, or missed.
    if not own and not args.overwrite and any(path.suffix in (".tar", ".pickle") for path in files):
        where = f"resume it with --resume {record / CHECKPOINT}, " if record / CHECKPOINT in files else ""
        raise UserError(f"{record}: holds a run; {where}give another --record, or remove it with --overwrite")


@contextlib.contextmanager
def open_record(args: Namespace, stream: Stream) -> Iterator[None]:
    """Take `args.record` for one training run: lock it until the block ends, and remove what is to be overwritten.

    A killed process keeps no lock.
    """
    args.record.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(args.record / ".lock", timeout=0).acquire()
    except Timeout:
        where = f"{args.record}: another run is training there"
        raise UserError(f"{where}; wait for it, or give another --record") from None
    with lock:
        recover_folders(args.record)  # what killed runs left
        check_record(args, stream)
        for path in run_files(args.record, stream) if args.overwrite else ():
            path.unlink()
        yield


# ---- what the best model's validation scores say about its probabilities ----


def calibrate_on(scores_file: Path, val: Sequence[Video]) -> dict[str, float] | None:
    """`fusion.metrics.calibrate` on the score pickle of validation videos, None if they are too few; prints it."""
    if len(val) < LEAST_VIDEOS:
        print(f"calibration: left out, {len(val)} validation videos are too few (at least {LEAST_VIDEOS})")
        return None
    scores = load_scores(scores_file)
    labels = {video.name: video.label for video in val}
    kept = calibrate(np.stack(list(scores.values())), np.array([labels[name] for name in scores]))
    print(
        f"calibration: temperature {kept['temperature']:.2f}, ECE {kept['ece_before']:.2f} → {kept['ece']:.2f}, "
        f"threshold {kept['threshold']:.2f} on {kept['videos']} validation videos"
    )
    return kept


def keep_calibration(path: Path, calibration: Mapping[str, float]) -> None:
    """Write `calibration` into the checkpoint `path` unless it is there."""
    checkpoint = load_checkpoint(path)
    if checkpoint.get("calibration") != calibration:
        save_checkpoint(path, checkpoint | {"calibration": dict(calibration)})
