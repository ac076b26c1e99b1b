"""From arguments to a trained or tested stream: the wiring that both scripts share."""

import argparse
import signal
import sys
import time
from functools import partial

import torch

from common.atomic import recover_folders
from common.cli import UserError
from dataloader.frame_index import require
from dataloader.split_train_test_video import Video, group_of, read_split
from dataloader.video_dataset import VideoDataset, end_workers, testing_loader
from fusion.scores import save_scores
from network import build_network, load_starting_weights, load_strictly, read_network
from training.distributed import Processes, join_processes, wait_for_main
from training.engine import Context, Stopped, evaluate
from training.loop import Model, fit, scores_path
from training.streams import Stream
from utils import (
    StopRequest,
    catch_stop_signals,
    environment,
    load_checkpoint,
    pick_device,
    seed_everything,
    write_json,
)


def run_stream(args: argparse.Namespace, stream: Stream) -> int:
    """Train or test `stream` as the command line says; returns the exit status."""
    if args.evaluate and args.resume is None:
        raise UserError("--evaluate needs a checkpoint to test; give it with --resume CHECKPOINT")
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


def _run(args: argparse.Namespace, stream: Stream, processes: Processes, stop: StopRequest) -> int:
    started = time.time()
    if processes.main:
        recover_folders(args.record)  # what killed runs left
    device = pick_device(args.device, processes.local_rank)
    split = read_split(args.ucf_list, args.split, args.class_index)
    training, held_out = split_off_groups(split.train, args.val_groups)
    model = make_model(args, stream, split.classes, processes)
    model.network.to(device, memory_format=torch.channels_last)
    context = Context(
        device=device,
        image_size=model.image_size,
        stack_length=stream.length,
        mean=stream.mean,
        std=stream.std,
        amp=device.type == "cuda" if args.amp is None else args.amp,
        accumulate=args.accumulate,
        freeze_bn=args.freeze_bn,
        skip_broken=args.skip_broken,
        processes=processes,
        stop=stop,
    )
    # With held-out groups the test list is not even looked for on disk before the end.
    watched = make_dataset(args, stream, model, held_out or split.test, context, "watched")
    loader = partial(
        testing_loader, workers=args.workers, pin=device.type == "cuda", rank=processes.rank, world=processes.world
    )
    figures = {}
    if args.evaluate:
        if held_out:
            figures["val"] = score(stream, args, model, loader(watched), context, "val")
            watched = make_dataset(args, stream, model, split.test, context, "test")
        figures["test"] = score(stream, args, model, loader(watched), context, "test")
    else:
        train_set = make_dataset(args, stream, model, training, context, "training")
        figures = fit(args, stream, model, train_set, loader(watched), context, "val" if held_out else "test")
        if held_out:
            best = load_checkpoint(args.record / "model_best.pth.tar")
            load_strictly(model.network, best["state_dict"], args.record / "model_best.pth.tar")
            test_set = make_dataset(args, stream, model, split.test, context, "test")
            figures["test"] = score(stream, args, model, loader(test_set), context, "test")
    if processes.main:
        for name, reason in context.left_out.items():
            print(f"left out {name}: {reason}", file=sys.stderr)
        name = "evaluation.json" if args.evaluate else "summary.json"
        write_json(args.record / name, summary(args, stream, model, context, figures, started))
    return 0


def split_off_groups(videos: list[Video], groups: tuple[int, ...]) -> tuple[list[Video], list[Video]]:
    """(videos to train on, videos of `groups` held out); raises `UserError` if either would be empty."""
    if not groups:
        return videos, []
    held_out = [video for video in videos if group_of(video) in groups]
    kept = [video for video in videos if group_of(video) not in groups]
    missing = set(groups) - {group_of(video) for video in held_out}
    if missing or not kept:
        raise UserError(
            f"--val-groups {','.join(map(str, groups))}: the training list has "
            + (f"no video of group {min(missing)} (names carry groups as in _g07_)" if missing else "no other group")
        )
    return kept, held_out


def make_dataset(args, stream: Stream, model: Model, videos: list[Video], context: Context, what: str) -> VideoDataset:
    """Find the videos' images and count them; raises `UserError` if some are missing (unless skipped)."""
    good, bad, sample = stream.prepare(args.data, videos)
    if not args.skip_broken:
        require(bad, len(videos))
    if not good:
        raise UserError(f"none of the {len(videos)} {what} videos is below {args.data}; prepare them, or change --data")
    context.left_out.update((video.name, reason) for video, reason in bad)
    return VideoDataset(good, partial(sample, image_size=model.image_size), model.seed)


def make_model(args: argparse.Namespace, stream: Stream, classes: list[str], processes: Processes) -> Model:
    """The network with its starting weights, or with those of `--resume`.

    Raises `UserError` if the checkpoint is another stream's, of other classes, or of another `--arch`.
    """
    if args.resume is None:
        seed = args.seed or 0
        seed_everything(seed)
        arch = args.arch or "resnet18"
        network = build_network(arch, stream.in_channels, len(classes))
        if args.weights == "imagenet" and not processes.main:
            wait_for_main(processes)  # one download serves all
        load_starting_weights(network, arch, args.weights)
        if args.weights == "imagenet" and processes.main:
            wait_for_main(processes)
        return Model(network, arch, args.image_size or 224, seed, classes)
    saved = read_network(args.resume, stream.in_channels)
    arch = saved.arch
    if saved.num_classes != len(classes):
        raise UserError(
            f"{args.resume}: its network knows {saved.num_classes} classes, {args.class_index} lists {len(classes)}; "
            "choose the --class-index it was trained with"
        )
    if saved.classes not in (None, classes):
        raise UserError(f"{args.resume}: was trained on other classes than {args.class_index} lists; choose its own")
    if args.arch not in (None, arch):
        raise UserError(f"{args.resume}: its network is a {arch}, not a {args.arch}; leave --arch out")
    seed = args.seed if args.seed is not None else saved.seed or 0
    seed_everything(seed)
    network = build_network(arch, stream.in_channels, len(classes))
    load_strictly(network, saved.state, args.resume)
    return Model(network, arch, args.image_size or saved.image_size or 224, seed, classes, saved.checkpoint)


def score(stream: Stream, args: argparse.Namespace, model: Model, loader, context: Context, what: str) -> dict:
    """Test the model, print the figures and write the score pickle; returns the figures."""
    result = evaluate(model.network, loader, context, what)
    scores = result.pop("scores")
    if context.processes.main:
        path = scores_path(args.record, stream, what)
        save_scores(path, scores)
        print(
            f"{what}: loss {result['loss']:.4f} Prec@1 {result['prec1']:.2f} Prec@3 {result['prec3']:.2f} "
            f"on {len(scores)} videos; scores in {path}"
        )
    return result


def summary(args, stream: Stream, model: Model, context: Context, figures: dict, started: float) -> dict:
    """What a run did, for `summary.json`: figures, arguments, seed, versions, git commit, device, times."""
    return {
        "stream": stream.name,
        "arch": model.arch,
        "classes": len(model.classes),
        "image_size": model.image_size,
        "seed": model.seed,
        "figures": figures,
        "selected_on": "validation groups" if args.val_groups else "test list",
        "left_out": context.left_out,
        "processes": context.processes.world,
        "arguments": {name: value for name, value in vars(args).items() if name != "default_lr"},
        **environment(context.device),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
        "seconds": round(time.time() - started, 1),
    }


def _say_how_to_resume(args: argparse.Namespace, signum: int) -> int:
    checkpoint = args.record / "checkpoint.pth.tar"
    name = signal.Signals(signum).name
    if args.evaluate:
        print(f"stopped by {name}; no scores were written", file=sys.stderr)
    elif checkpoint.exists():
        print(f"stopped by {name}; go on with --resume {checkpoint} and the same options", file=sys.stderr)
    else:
        print(f"stopped by {name} before the first epoch was complete; start again", file=sys.stderr)
    return 128 + signum
