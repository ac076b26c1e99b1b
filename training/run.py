"""A run of a stream, from its options to a trained or tested network."""

import contextlib
import platform
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from common.cli import UserError, print_first
from dataloader.features import save_features
from dataloader.frame_index import check_usable
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
from training.loop import SELECTION, figures_in_words, fit
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
    scores_path,
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
    """Train or test `stream` as the options say; returns the exit status."""
    started = time.time()
    if args.evaluate and not args.resume:
        raise UserError("--evaluate needs a checkpoint to test; give it with --resume CHECKPOINT")
    if not args.evaluate:
        check_record(args, stream)
    if not args.resume and args.weights not in ("imagenet", "none"):
        check_file(args.weights)
    with stopping_in_order(args) as stop, join_processes() as processes:
        model = read_model(args.resume, stream.in_channels, stream.family) if args.resume else None
        if args.changed and processes.main:
            print("in place of the checkpoint's: " + ", ".join(f"{name} {new}" for name, new in args.changed.items()))
        split = hold_out(stream.lists(args), args.val_groups)
        if model:
            check_same_videos(args, model, split)
        context = make_context(args, trained_stream(stream, vars(args)), processes, stop)
        about = {"training_videos": fingerprint(split.train), **made_of(args, model, processes.main)}

        # With a validation set the test list is not even looked for on disk before the end.
        chosen_on, loaders = {"val": split.val} if split.val else {"test": split.test}, {}
        if not args.evaluate:
            loaders = {what: test_loader(args, videos, context, args.test_clips) for what, videos in chosen_on.items()}
            loaders["train"] = train_loader(args, split.train, context)
            args = settle(args, len(loaders["train"]), context)
        model = model or new_model(args, stream, split.classes, processes)
        model.classes, model.image_size = split.classes, args.image_size
        model.network.to(context.device).to(memory_format=memory_format(context.device))

        figures, calibration, best = {}, None, args.record / BEST
        with open_record(args, stream) if processes.main and not args.evaluate else contextlib.nullcontext():
            if not args.evaluate:
                figures = fit(args, model, loaders, context, about)
                wait_for_main(processes)  # which may still be writing its best model
                if processes.main and best.exists():  # the tests give its weights to the other processes
                    network = read_model(best, stream.in_channels, stream.family).network
                    model.network.load_state_dict(network.state_dict())
            for what, videos in (chosen_on | {"test": split.test}).items():
                if args.evaluate or what not in chosen_on or args.test_clips != stream.test_clips:
                    loader = test_loader(args, videos, context, stream.test_clips)
                    figures[what] = score(args, model, loader, context, what)
            if split.val and processes.main and (args.evaluate or best.exists()):
                calibration = calibrate_on(scores_path(args.record, stream, "val"), split.val)
                if calibration and not args.evaluate:
                    keep_calibration(best, calibration)
            if args.write_features:
                write_features(args, model, split, context)

        skipped = {name: reason for part in gather(processes, context.skipped) for name, reason in part.items()}
        if processes.main:
            path = args.record / ("evaluation.json" if args.evaluate else "summary.json")
            summary = {"stream": stream.name, "arch": model.arch, "classes": len(split.classes), "seed": args.seed}
            summary |= {"image_size": args.image_size, "selected_on": SELECTION["val" if split.val else "test"]}
            summary |= {"figures": figures, "calibration": calibration, "skipped": skipped}
            summary |= {"processes": processes.world, "amp": context.amp, "arguments": vars(args)}
            summary |= environment(context.device)
            summary |= {"started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))}
            write_json(path, summary | {"seconds": round(time.time() - started, 1)})
            print_first([f"skipped {name}: {reason}" for name, reason in skipped.items()], f"all in {path}")
    return 0


def settle(args: Namespace, steps: int, context: Context) -> Namespace:
    """The options of a run with what depends on its videos, `steps` an epoch, and on the device."""
    epochs = max(args.epochs, -(-args.least_steps // steps))
    if context.processes.main and epochs > args.epochs:
        print(f"{epochs} epochs of {steps} steps, for --least-steps {args.least_steps}")
    settled = {"epochs": epochs, "test_every": args.test_every or max(round(epochs / TESTS), 1), "amp": context.amp}
    return Namespace(**vars(args) | settled)


@contextlib.contextmanager
def stopping_in_order(args: Namespace) -> Iterator[StopRequest]:
    """Watch for SIGINT and SIGTERM; when one has ended the run, say how to resume and leave with its status."""
    with catch_stop_signals() as stop:
        try:
            yield stop
            return
        except Stopped:
            pass
        except (RuntimeError, UserError):
            if not stop.signum:
                raise
            # A worker or another process that the same signal ended first.
        finally:
            end_workers()
    signum, checkpoint = stop.signum or signal.SIGTERM, args.record / CHECKPOINT
    way = "before the first epoch was complete; start again"
    if args.evaluate or checkpoint.exists():
        way = f"; resume with --resume {checkpoint} and the same options"
    way = "; no scores were written" if args.evaluate else way
    print(f"stopped by {signal.Signals(signum).name}{way}", file=sys.stderr)
    sys.exit(128 + signum)


def hold_out(split: Split, groups: tuple[int, ...]) -> Split:
    """The split with the training videos of `groups` as its validation set."""
    if not groups:
        return split
    val = [video for video in split.train if group_of(video) in groups]
    kept = [video for video in split.train if group_of(video) not in groups]
    missing = set(groups) - {group_of(video) for video in val}
    if missing or not kept:
        reason = f"no video of group {min(missing)} (names carry groups as in _g07_)" if missing else "no other group"
        raise UserError(f"--val-groups {','.join(map(str, groups))}: the training list has {reason}")
    return replace(split, train=kept, val=val)


def make_context(args: Namespace, stream: Stream, processes: Processes, stop: StopRequest) -> Context:
    """Where and how to compute."""
    device = pick_device(args.device, processes.local_rank)
    if device.type == "cuda":
        identity = platform.node(), str(torch.cuda.get_device_properties(device).uuid)
        devices = len(set(gather(processes, identity)))
        if devices < processes.world:
            raise UserError(f"{processes.world} processes share {devices} CUDA devices; start one process per device")
    amp = computes_in_half(device) if args.amp is None else args.amp
    names = ("accumulate", "freeze_bn", "label_smoothing", "clip_gradients", "skip_broken")
    options = {name: getattr(args, name) for name in names}
    return Context(stream, device, amp, processes=processes, stop=stop, **options)


def train_loader(args: Namespace, videos: list[Video], context: Context) -> VideoLoader:
    """Loader of the training batches of this process."""
    dataset, processes = find_videos(args, videos, context, args.test_clips), context.processes
    batches = EpochBatches(len(dataset), args.batch_size, args.seed, processes.rank, processes.world)
    return training_loader(dataset, batches, args.workers, pin=context.device.type == "cuda")


def test_loader(args: Namespace, videos: list[Video], context: Context, clips: int) -> VideoLoader:
    """Loader of this process's share of the videos to test, with `clips` samples each."""
    dataset, processes = find_videos(args, videos, context, clips), context.processes
    pin = context.device.type == "cuda"
    return testing_loader(dataset, args.workers, pin, rank=processes.rank, world=processes.world)


def find_videos(args: Namespace, videos: list[Video], context: Context, clips: int) -> VideoDataset:
    """The listed videos that are in `--data`, which must be all unless missing ones are skipped."""
    good, bad, sample = context.stream.prepare(args, videos)
    if not args.skip_broken:
        check_usable(bad, len(videos))
    if not good:
        raise UserError(f"none of {len(videos)} listed videos is below {args.data}; prepare them, or change --data")
    context.skipped.update((video.name, reason) for video, reason in bad)
    return VideoDataset(good, partial(sample, clips=clips), args.seed)


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


def score(args: Namespace, model: Model, loader: VideoLoader, context: Context, what: str) -> dict[str, float]:
    """Test the model on the `what` list, write the score pickle, and print and return the figures."""
    result = evaluate(model, loader, context, what)
    scores = result.pop("scores")
    if context.processes.main:
        path = scores_path(args.record, context.stream, what)
        save_scores(path, scores)
        print(f"{what}: {figures_in_words(result)} on {len(scores)} videos; scores in {path}")
    return result


def write_features(args: Namespace, model: Model, split: Split, context: Context) -> None:
    """Write the features of the videos of all lists, at `--positions` of each."""
    features = {}
    for what, videos in (("train", split.train), ("val", split.val), ("test", split.test)):
        if videos:
            loader = test_loader(args, videos, context, args.positions)
            features |= extract_features(model, loader, context, what)
    if context.processes.main:
        save_features(args.write_features, features, split)
        shape = len(features), *next(iter(features.values())).shape
        print(f"features of {shape[0]} videos, {shape[1]} positions, {shape[2]} numbers each: {args.write_features}")
