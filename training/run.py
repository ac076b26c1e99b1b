"""A run of a stream, from its options to a trained or tested network."""

import contextlib
import platform
import signal
import sys
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.cli import UserError, print_first
from dataloader.features import save_features
from dataloader.frame_index import check_usable, find_folders
from dataloader.names import Video, group_of
from dataloader.split_train_test_video import Split
from dataloader.video_dataset import (
    EpochBatches,
    VideoDataset,
    VideoLoader,
    end_workers,
    testing_loader,
    training_loader,
)
from fusion.scores import save_scores
from network import Model, load_starting_weights, read_model
from training.distributed import Processes, gather, join_processes, wait_for_main
from training.engine import Context, Stopped, evaluate, extract_features
from training.loop import fit
from training.resume import (
    BEST,
    CHECKPOINT,
    calibrate_on,
    check_record,
    check_same_videos,
    fingerprint,
    keep_calibration,
    made_of,
    open_record,
    restore_run,
    scores_path,
    selected_on,
)
from training.streams import Stream, trained_stream
from utils import (
    StopRequest,
    catch_stop_signals,
    check_file,
    computes_in_half,
    environment,
    memory_format,
    pick_device,
    seed_everything,
    write_json,
)

TESTS = 20  # in a run, unless --test-every tells


def run_stream(args: Namespace, stream: Stream) -> int:
    """Train or test `stream` as the command line says; returns the exit status."""
    check_options(args)
    with catch_stop_signals() as stop:
        try:
            with join_processes() as processes:
                return _run(args, stream, processes, stop)
        except Stopped:
            pass
        except (RuntimeError, UserError):
            if not stop.signum:
                raise
            # A worker or another process that the same signal ended first.
        finally:
            end_workers()
        return _say_how_to_resume(args, stop.signum or signal.SIGTERM)


def _run(args: Namespace, stream: Stream, processes: Processes, stop: StopRequest) -> int:
    started = time.time()
    if not args.evaluate:
        check_record(args, stream)
    # What the checkpoint knows of its run, unless the command line says otherwise.
    model = read_model(args.resume, stream.in_channels, stream.family) if args.resume else None
    changed = restore_run(args, model, stream.name) if model else {}
    if changed and processes.main:
        print("in place of the checkpoint's: " + ", ".join(f"{name} {new}" for name, (_, new) in changed.items()))

    split = hold_out(stream.lists(args), args.val_groups)
    if model:
        check_same_videos(args, model, split)
    context = make_context(args, trained_stream(stream, vars(args)), processes, stop)

    context.frames, context.poses = made_of(args, model, processes.main)
    # With a validation set the test list is not even looked for on disk before the end.
    selection = {"val": split.val} if split.val else {"test": split.test}
    wanted = selection | ({"test": split.test} if args.evaluate else {"train": split.train})
    clips = stream.test_clips if args.evaluate else args.test_clips
    loaders = {what: make_loader(args, videos, what, context, clips) for what, videos in wanted.items()}

    model = model or new_model(args, stream, split.classes, processes)
    model.classes, model.image_size = split.classes, args.image_size
    model.network.to(context.device).to(memory_format=memory_format(context.device))
    calibration, results = None, []
    if args.evaluate:
        figures: dict[str, Any] = {
            what: score(args, model, loader, context, what, results) for what, loader in loaders.items()
        }
        if split.val and processes.main:
            calibration = calibrate_on(scores_path(args.record, stream, "val"), split.val)
        if args.write_features:
            write_features(args, model, split, context)
    else:
        context.training_videos = fingerprint(split.train)
        settle_epochs(args, len(loaders["train"]), processes)
        with open_record(args, stream) if processes.main else contextlib.nullcontext():
            figures = fit(args, model, loaders, context, changed)
            wait_for_main(processes)  # which may still be writing its best model
            # The best model's scores of all samples, and of the test list where it did not choose.
            final = selection if args.test_clips != stream.test_clips else {}
            final |= {"test": split.test} if split.val else {}
            if final and processes.main and (args.record / BEST).exists():  # the test gives it to the other processes
                best = read_model(args.record / BEST, stream.in_channels, stream.family)
                model.network.load_state_dict(best.network.state_dict())
            for what, videos in final.items():
                loader = make_loader(args, videos, what, context, stream.test_clips)
                figures[what] = score(args, model, loader, context, what, results)
            if split.val and processes.main and (args.record / BEST).exists():
                calibration = calibrate_on(scores_path(args.record, stream, "val"), split.val)
                keep_calibration(args.record / BEST, calibration)

    skipped = {name: reason for part in gather(processes, context.skipped) for name, reason in part.items()}
    if processes.main:
        done = {"figures": figures, "calibration": calibration, "skipped": skipped, "started": started}
        summary = write_summary(args, model, context, done)
        print_first([f"skipped {name}: {reason}" for name, reason in skipped.items()], f"all in {summary}")
        if skipped and not results and figures["best_prec1"] >= 0:  # the epochs' lines are above
            results.append(f"best Prec@1 {figures['best_prec1']:.2f}; all figures in {summary}")
        for line in results:
            print(line)
    return 0


def check_options(args: Namespace) -> None:
    """Raise `UserError` for options that do not go together, and for files and folders that are not there."""
    features = args.write_features
    if args.evaluate and args.resume is None:
        raise UserError("--evaluate needs a checkpoint to test; give it with --resume CHECKPOINT")
    if features and not args.evaluate:
        raise UserError(f"--features {features}: is written of a trained network; add --resume and --evaluate")
    if features and features.is_dir():
        raise UserError(f"--features {features}: is a folder; give the name of a file to write, FILE.npz")
    if args.data and (not args.resume or "data" in args.given):  # temporal heads know their videos
        find_folders(args.data, [])
    if args.resume:
        check_file(args.resume)
    elif args.weights not in ("imagenet", "none"):
        check_file(args.weights)


def settle_epochs(args: Namespace, steps: int, processes: Processes) -> None:
    """Set `args.epochs` of a new run to what `--least-steps` asks for at `steps` an epoch, and `args.test_every`."""
    if not args.resume and "epochs" not in args.given and args.epochs * steps < args.least_steps:
        args.epochs = -(-args.least_steps // steps)
        if processes.main:
            print(f"{args.epochs} epochs of {steps} steps, for --least-steps {args.least_steps}")
    if args.test_every is None:
        args.test_every = max(round(args.epochs / TESTS), 1)


def hold_out(split: Split, groups: tuple[int, ...]) -> Split:
    """The split with the training videos of `groups` as its validation set; raises `UserError` if a list is empty."""
    if not groups:
        return split
    val = [video for video in split.train if group_of(video) in groups]
    kept = [video for video in split.train if group_of(video) not in groups]
    missing = set(groups) - {group_of(video) for video in val}
    if missing or not kept:
        raise UserError(
            f"--val-groups {','.join(map(str, groups))}: the training list has "
            + (f"no video of group {min(missing)} (names carry groups as in _g07_)" if missing else "no other group")
        )
    return replace(split, train=kept, val=val)


def make_context(args: Namespace, stream: Stream, processes: Processes, stop: StopRequest) -> Context:
    """Where and how to compute; raises `UserError` for what the device or the processes cannot do."""
    device = pick_device(args.device, processes.local_rank)
    if args.amp is None or ("amp" not in args.given and not computes_in_half(device)):  # a checkpoint's, elsewhere
        args.amp = computes_in_half(device)
    if args.amp and device.type == "mps":
        raise UserError("--amp: float16 on mps would need a gradient scaler, which torch lacks there; leave it out")
    if device.type == "cuda":
        identity = platform.node(), str(torch.cuda.get_device_properties(device).uuid)
        devices = len(set(gather(processes, identity)))
        if devices < processes.world:
            raise UserError(f"{processes.world} processes share {devices} CUDA devices; start one process per device")
    if args.batch_size < processes.world and not args.evaluate:
        raise UserError(
            f"--batch-size {args.batch_size}: {processes.world} processes would share fewer videos than that; "
            "give at least one video per process"
        )
    return Context(
        stream,
        device,
        amp=args.amp,
        accumulate=args.accumulate,
        freeze_bn=args.freeze_bn,
        label_smoothing=args.label_smoothing,
        clip_gradients=args.clip_gradients,
        skip_broken=args.skip_broken,
        processes=processes,
        stop=stop,
    )


def make_loader(args: Namespace, videos: list[Video], what: str, context: Context, clips: int) -> VideoLoader:
    """Loader of the videos of the `what` list, tested with `clips` samples each.

    Raises `UserError` if some are missing (unless skipped).
    """
    good, bad, sample = context.stream.prepare(args, videos)
    if not args.skip_broken:
        check_usable(bad, len(videos))
    if not good:
        raise UserError(f"none of the {len(videos)} {what} videos is below {args.data}; prepare them, or change --data")
    context.skipped.update((video.name, reason) for video, reason in bad)
    dataset = VideoDataset(good, partial(sample, clips=clips), args.seed)
    rank, world, pin = context.processes.rank, context.processes.world, context.device.type == "cuda"
    if what == "train":
        batches = EpochBatches(len(dataset), args.batch_size, args.seed, rank, world)
        return training_loader(dataset, batches, args.workers, pin)
    return testing_loader(dataset, args.workers, pin, rank=rank, world=world)


def new_model(args: Namespace, stream: Stream, classes: list[str], processes: Processes) -> Model:
    """A network with the starting weights that `--weights` names."""
    seed_everything(args.seed)
    network = stream.family.build(args.arch, stream.in_channels, len(classes), args.image_size)
    if not processes.main:
        wait_for_main(processes)  # one download serves all
    load_starting_weights(network, args.arch, args.weights, args.image_size, args.freeze_bn)
    if processes.main:
        wait_for_main(processes)
    return Model(network, args.arch, args.image_size, classes)


def score(args: Namespace, model: Model, loader: VideoLoader, context: Context, what: str, results: list[str]) -> dict:
    """Test the model, write the score pickle, and add a line with the figures to `results`; returns the figures."""
    result = evaluate(model, loader, context, what)
    scores = result.pop("scores")
    if context.processes.main:
        path = scores_path(args.record, context.stream, what)
        save_scores(path, scores)
        results.append(
            f"{what}: loss {result['loss']:.4f} Prec@1 {result['prec1']:.2f} Prec@3 {result['prec3']:.2f} "
            f"on {len(scores)} videos; scores in {path}"
        )
    return result


def write_features(args: Namespace, model: Model, split: Split, context: Context) -> None:
    """Write the features of the videos of both lists, and of the validation set, at `args.positions` of each."""
    features = {}
    for what, videos in (("train", split.train), ("val", split.val), ("test", split.test)):
        if videos:
            loader = make_loader(args, videos, f"{what} features", context, args.positions)
            features |= extract_features(model, loader, context, what)
    if context.processes.main:
        save_features(args.write_features, features, split)
        shape = len(features), *next(iter(features.values())).shape
        print(f"features of {shape[0]} videos, {shape[1]} positions, {shape[2]} numbers each: {args.write_features}")


def write_summary(args: Namespace, model: Model, context: Context, results: dict) -> Path:
    """Write what a run did: figures, skipped videos, options, versions, git commit, device, times; returns the file."""
    started = results.pop("started")
    summary = {
        "stream": context.stream.name,
        "arch": model.arch,
        "classes": len(model.classes),
        "image_size": args.image_size,
        "seed": args.seed,
        "selected_on": selected_on(args),
        **results,
        "processes": context.processes.world,
        "amp": context.amp,
        "arguments": {name: value for name, value in vars(args).items() if name != "given"},
        **environment(context.device),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
        "seconds": round(time.time() - started, 1),
    }
    path = args.record / ("evaluation.json" if args.evaluate else "summary.json")
    write_json(path, summary)
    return path


def _say_how_to_resume(args: Namespace, signum: int) -> int:
    checkpoint = args.record / CHECKPOINT
    name = signal.Signals(signum).name
    if args.evaluate:
        print(f"stopped by {name}; no scores were written", file=sys.stderr)
    elif checkpoint.exists():
        print(f"stopped by {name}; resume with --resume {checkpoint} and the same options", file=sys.stderr)
    else:
        print(f"stopped by {name} before the first epoch was complete; start again", file=sys.stderr)
    return 128 + signum
