"""What tells one stream from the others."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from common.cli import UserError
from common.records import FrameSettings, settings_from_arguments
from dataloader import skeleton_dataloader as skeletons
from dataloader.flow_dataloader import method_of, prepare_flow
from dataloader.frame_index import index_frames, looks_like_frames, looks_like_pose_flow
from dataloader.images import read_frames, to_input
from dataloader.motion_pose_dataloader import keypoint_sample, load_all_keypoints, motion_sample
from dataloader.sampling import STACK_LENGTH, TEST_SAMPLES
from dataloader.spatial_dataloader import spatial_sample
from dataloader.split_train_test_video import Split, read_split
from dataloader.video_dataset import Prepared
from dataloader.video_files import holds_videos, index_videos, read_video
from network import IMAGE_NETWORKS, IMAGENET_MEAN, IMAGENET_STD, Family, read_weights, rgb_statistics, trained_channels
from pose.graph_network import GRAPH_NETWORKS
from pose.keypoints import FILE_NAME
from training.options import RECIPES


def _read_lists(args: Namespace) -> Split:
    return read_split(args.ucf_list, args.split, args.class_index, args.val_list)


@dataclass(frozen=True)
class Stream:
    """What tells a stream from the others.

    `prepare(args, videos)` finds the videos below `args.data`: it returns those that can be used, `(video, reason)` for
    the others, and the function `sample(video, generator, clips)` that reads what the clips of a video need.
    `to_input(images, rows)` makes `in_channels` channels of it for a network of the `family`; a test votes over
    `test_clips`. `lists(args)` are its videos. Records are called `<prefix>_train.csv`, ….
    """

    name: str
    prefix: str
    in_channels: int
    prepare: Callable
    to_input: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    length: int = 1  # images of a clip
    test_clips: int = TEST_SAMPLES
    family: Family = IMAGE_NETWORKS
    lists: Callable[[Namespace], Split] = _read_lists


def video_settings(args: Namespace) -> FrameSettings:
    """How frames are made of the videos in `args.data`, if these are videos: without a JPEG."""
    return settings_from_arguments(args, FrameSettings(quality=None))


def _prepare_spatial(args: Namespace, videos: list) -> Prepared:
    if looks_like_pose_flow(args.data):
        raise UserError(f"--data {args.data}: holds {FILE_NAME}, so it is pose flow; give the folder of RGB frames")
    if holds_videos(args.data):
        settings = video_settings(args)
        good, bad = index_videos(args.data, videos, settings)
        read: Callable = partial(read_video, settings=settings)
    else:
        (good, bad), read = index_frames(args.data, videos), read_frames
    options = {"image_size": args.image_size, "crop": args.crop, "color_jitter": args.color_jitter}
    return good, bad, partial(spatial_sample, read=read, **options)


def _prepare_motion_pose(args: Namespace, videos: list) -> Prepared:
    if looks_like_frames(args.data):
        raise UserError(f"--data {args.data}: holds RGB frames; give the folder of pose flow, see process_pose.py")
    if args.from_keypoints is None:  # the checkpoint keeps what was chosen
        args.from_keypoints = looks_like_pose_flow(args.data)
    options = {"image_size": args.image_size, "segments": args.segments}
    if not args.from_keypoints:
        return *index_frames(args.data, videos), partial(motion_sample, **options)
    keypoints, good, bad = load_all_keypoints(args.data, videos)
    return good, bad, partial(keypoint_sample, keypoints=keypoints, **options)


def _prepare_flow(args: Namespace, videos: list) -> Prepared:
    good, bad, sample = prepare_flow(args.data, videos)
    found = method_of(args.data)
    if found and args.flow_method not in (None, found):
        print(
            f"{args.data}: its flow was made by {found}, that of {args.resume} by {args.flow_method}", file=sys.stderr
        )
    args.flow_method = found or args.flow_method
    return good, bad, partial(sample, image_size=args.image_size, segments=args.segments)


def _prepare_skeleton(args: Namespace, videos: list) -> Prepared:
    if looks_like_frames(args.data):
        raise UserError(f"--data {args.data}: holds RGB frames; give the folder of {FILE_NAME}, see process_pose.py")
    return skeletons.prepare_skeletons(args.data, videos)


# Single RGB frames, normalised as ImageNet's.
SPATIAL = Stream("spatial", "rgb", 3, _prepare_spatial, partial(to_input, mean=IMAGENET_MEAN, std=IMAGENET_STD))
# Stacks of 10 pose-flow images, read from disk or drawn from keypoints. Mean and standard deviation are those of
# images of real and of synthetic people, which agree within a tenth: mostly black, thin lines.
MOTION_POSE = Stream(
    "motion_pose",
    "posef",
    3 * STACK_LENGTH,
    _prepare_motion_pose,
    partial(to_input, mean=(0.016, 0.019, 0.010), std=(0.115, 0.125, 0.089)),
    length=STACK_LENGTH,
)
# Stacks of the optical flow of 10 following frames: u1 v1 u2 v2 …, −20 to 20 pixels as −1 to 1.
FLOW = Stream(
    "flow",
    "flow",
    2 * STACK_LENGTH,
    _prepare_flow,
    partial(to_input, mean=(0.5, 0.5), std=(0.5, 0.5)),
    length=STACK_LENGTH,
)
# The coordinates of the main people's parts.
SKELETON = Stream(
    "skeleton",
    "skeleton",
    skeletons.CHANNELS,
    _prepare_skeleton,
    skeletons.skeleton_input,
    test_clips=skeletons.TEST_CLIPS,
    family=GRAPH_NETWORKS,
)
STREAMS = {stream.name: stream for stream in (SPATIAL, MOTION_POSE, FLOW, SKELETON)}


def stream_of(path: str | os.PathLike) -> Stream:
    """The stream whose network a checkpoint holds; raises `UserError` if the file is none, or no stream's."""
    checkpoint, state = read_weights(path)
    channels = trained_channels(checkpoint, state)
    for stream in STREAMS.values():
        if stream.in_channels == channels:
            return stream
    raise UserError(f"{path}: its network takes {channels} channels, as none of the streams {', '.join(STREAMS)} do")


def trained_options(stream: Stream, options: dict) -> dict:
    """The options of a run whose checkpoint keeps `options`: what these leave out is as in the first recipe."""
    return next(iter(RECIPES[stream.name].values())) | options


def trained_stream(stream: Stream, options: dict) -> Stream:
    """`stream` as a run with these `trained_options` trains it: without `normalize`, images with values in [0, 1].

    RGB is normalised as the ImageNet weights of `arch` want it.
    """
    options = trained_options(stream, options)
    if not options.get("normalize", True):
        return replace(stream, to_input=partial(to_input, mean=None, std=None))
    if stream.name == SPATIAL.name and options.get("arch"):
        mean, std = rgb_statistics(options["arch"])
        return replace(stream, to_input=partial(to_input, mean=mean, std=std))
    return stream
