"""A run of a stream, from its options to a trained or tested network."""

import contextlib
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.cli import UserError, print_first
from dataloader.features import save_features
from dataloader.frame_index import check_usable
from dataloader.names import Video, group_of
from dataloader.split_train_test_video import Split, read_split
from dataloader.video_dataset import EpochBatches, VideoDataset, VideoLoader, end_workers
from fusion.plots import plot_curves
from fusion.scores import save_scores
from network import Model, add_dropout, load_starting_weights, read_model, start_classifier
from training.distributed import Processes, gather, join_processes, wait_for_main
from training.engine import (
    Context,
    Stopped,
    context_of_training,
    evaluate,
    extract_features,
    fit_classifier,
    train_one_epoch,
    wrap,
)
from training.options import kept_options
from training.resume import (
    BEST,
    CHECKPOINT,
    calibrate_on,
    check_record,
    check_same_videos,
    fingerprint,
    how_data_were_made,
    keep_calibration,
    open_record,
    record_path,
    resume_training,
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
    save_checkpoint,
    write_json,
    write_record,
)

TESTS = 20  # in a run, unless --test-every tells
SELECTION = {"val": "validation set", "test": "test list"}
VIDEOS_PER_TEST = 2  # in a batch of a test
UNSAVED_SECONDS = 5  # of epochs without a test that a kill may cost: writing can take longer than training a head


def run_stream(args: Namespace, stream: Stream, split: Split | None = None) -> int:
    """Train or test `stream` as the options say, on the lists or on `split`; returns the exit status."""
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
        split = hold_out(
            split or read_split(args.ucf_list, args.split, args.class_index, args.val_list), args.val_groups
        )
        if model:
            check_same_videos(args, model, split)
        context = make_context(args, trained_stream(stream, vars(args)), processes, stop)
        about = {"training_videos": fingerprint(split.train), **how_data_were_made(args, model, processes.main)}

        # With a validation set the test list is not even looked for on disk before the end.
        lists = {"train": split.train, "val": split.val, "test": split.test}
        selection, loaders = "val" if split.val else "test", {}
        if not args.evaluate:
            loaders[selection] = make_loader(args, lists[selection], context, args.test_clips)
            # A linear probe sees the clips of a test.
            loaders["train"] = make_loader(args, split.train, context, args.test_clips, training=not args.linear_probe)
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
            for what in dict.fromkeys((selection, "test")):
                if args.evaluate or what != selection or args.test_clips != stream.test_clips:
                    loader = make_loader(args, lists[what], context, stream.test_clips)
                    figures[what] = score(args, model, loader, context, what)
            if split.val and processes.main and (args.evaluate or best.exists()):
                calibration = calibrate_on(scores_path(args.record, stream, "val"), split.val)
                if calibration and not args.evaluate:
                    keep_calibration(best, calibration)
            if args.write_features:
                write_features(args, model, split, lists, context)

        skipped = {name: reason for part in gather(processes, context.skipped) for name, reason in part.items()}
        if processes.main:
            path = args.record / ("evaluation.json" if args.evaluate else "summary.json")
            summary = {"stream": stream.name, "arch": model.arch, "classes": len(split.classes), "seed": args.seed}
            summary |= {"image_size": args.image_size, "selected_on": SELECTION[selection]}
            summary |= {"figures": figures, "calibration": calibration, "skipped": skipped}
            summary |= {"processes": processes.world, "amp": context.amp, "arguments": vars(args)}
            summary |= environment(context.device)
            summary |= {"started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))}
            write_json(path, summary | {"seconds": round(time.time() - started, 1)})
            print_first([f"skipped {name}: {reason}" for name, reason in skipped.items()], f"all in {path}")
    return 0


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
    later_wins = args.schedule == "cosine"  # of equally good epochs, which are many where videos are few
    if args.dropout:
        add_dropout(model.network, args.dropout)
    context = context_of_training(args, model.network, context)
    scheduler = ReduceLROnPlateau(context.optimizer, "min", patience=1)
    tested_model = replace(model, network=context.averaged.module) if context.averaged else model
    first, best, notes = 0, -1.0, []
    if model.checkpoint.get("optimizer"):
        first, best = resume_training(model, args.changed, context, scheduler)
        if best >= 0 and not (record / BEST).exists():
            best = -1.0
            notes.append(f"{record} has no {BEST}: model selection starts anew")
    elif model.checkpoint:
        notes.append(f"{model.path}: has no optimiser state; training begins anew from its weights")
    first = first if args.start_epoch is None else args.start_epoch
    if first >= args.epochs:
        notes.append(f"{first} epochs are done, --epochs {args.epochs} asks for no more")
    for note in notes if main else ():
        print(note)
    trained = wrap(model.network, args, context)
    figures, saved = {}, time.monotonic()
    for epoch in range(first, args.epochs):
        begun = time.time()
        if args.linear_probe:
            train = figures["train"] = fit_classifier(model, loaders["train"], context)
        else:
            train = figures["train"] = train_one_epoch(trained, loaders["train"], context, epoch)
        lr, is_best, tested = context.optimizer.param_groups[0]["lr"], False, None
        if (epoch + 1) % args.test_every == 0 or epoch + 1 == args.epochs:
            tested = figures[selection] = evaluate(tested_model, loaders[selection], context, selection)
            scores = tested.pop("scores")
            if args.schedule == "plateau":
                scheduler.step(tested["loss"])
            is_best = tested["prec1"] > best or (tested["prec1"] == best and later_wins)
            best = max(best, tested["prec1"])
        if not main:
            continue
        write_record(train_csv, _row(epoch, train) | {"lr": lr})
        result = ""
        if tested:
            write_record(selection_csv, _row(epoch, tested))
            data = f"{args.data}, split {args.split}; " if args.data else ""
            title = f"{stream.name} stream, {model.arch}\n{data}model selected on the {SELECTION[selection]}"
            name = "validation" if selection == "val" else selection
            records = pd.read_csv(train_csv), pd.read_csv(selection_csv)
            plot_curves(*records, name, record / "curves.png", title, later_wins)
            result = f"{selection} {figures_in_words(tested)}, "
        checkpoint = {
            "epoch": epoch + 1,
            "arch": model.arch,
            "classes": model.classes,
            "in_channels": stream.in_channels,
            "image_size": model.image_size,
            "state_dict": tested_model.network.state_dict(),
            "optimizer": context.optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": context.scaler.state_dict(),
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


def figures_in_words(result: dict[str, float]) -> str:
    """Loss and accuracies."""
    return f"loss {result['loss']:.4f} Prec@1 {result['prec1']:.2f} Prec@3 {result['prec3']:.2f}"


def _row(epoch: int, result: dict[str, float]) -> dict:
    columns = {"Batch Time": "batch_time", "Data Time": "data_time"}
    columns |= {"Loss": "loss", "Prec@1": "prec1", "Prec@3": "prec3"}
    return {"Epoch": epoch} | {column: result[name] for column, name in columns.items() if name in result}


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
        except (Stopped, RuntimeError, UserError) as error:
            # The same signal may have ended a worker or another process first.
            if not stop.signum and not isinstance(error, Stopped):
                raise
        finally:
            end_workers()
    signum, checkpoint = stop.signum or signal.SIGTERM, args.record / CHECKPOINT
    way = " before the first epoch was complete; start again"
    if args.evaluate:
        way = "; no scores were written"
    elif checkpoint.exists():
        way = f"; resume with --resume {checkpoint} and the same options"
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
    amp = computes_in_half(device) if args.amp is None else args.amp
    names = ("accumulate", "freeze_bn", "label_smoothing", "clip_gradients", "skip_broken")
    return Context(stream, device, amp, processes=processes, stop=stop, **{name: getattr(args, name) for name in names})


def make_loader(
    args: Namespace, videos: list[Video], context: Context, clips: int, training: bool = False
) -> VideoLoader:
    """Loader of this process's share of the listed videos: batches of training, or a test with `clips` of each.

    All must be in `--data` unless missing ones are skipped.
    """
    good, bad, sample = context.stream.find(args, videos)
    if not args.skip_broken:
        check_usable(bad, len(videos))
    if not good:
        raise UserError(f"none of {len(videos)} listed videos is below {args.data}; prepare them, or change --data")
    context.skipped.update((video.name, reason) for video, reason in bad)
    dataset = VideoDataset(good, partial(sample, clips=clips), args.seed)
    rank, world, pin = context.processes.rank, context.processes.world, context.device.type == "cuda"
    batches = {"batch_size": VIDEOS_PER_TEST, "sampler": range(rank, len(good), world)}
    if training:
        batches = {"batch_sampler": EpochBatches(len(good), args.batch_size, args.seed, rank, world)}
    return VideoLoader(dataset, args.workers, pin, **batches)


def new_model(args: Namespace, stream: Stream, classes: list[str], processes: Processes) -> Model:
    """A network with the starting weights that `--weights` names."""
    torch.manual_seed(args.seed)
    network = stream.family.build(args.arch, stream.in_channels, len(classes), args.image_size)
    if not processes.main:
        wait_for_main(processes)  # one download serves all
    load_starting_weights(network, args.arch, args.weights, args.image_size, args.freeze_bn)
    if stream.family.images and args.weights != "none" and args.recipe == "modern":
        start_classifier(network)
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


def write_features(
    args: Namespace, model: Model, split: Split, lists: dict[str, list[Video]], context: Context
) -> None:
    """Write the features of the videos of all lists, at `--positions` of each."""
    features = {}
    for what, videos in lists.items():
        if videos:
            features |= extract_features(model, make_loader(args, videos, context, args.positions), context, what)
    if context.processes.main:
        save_features(args.write_features, features, split)
        print(f"features of {len(features)} videos, {args.positions} positions each: {args.write_features}")
