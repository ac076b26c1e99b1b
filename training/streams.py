"""What tells one stream from the others."""

import os
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.cli import UserError
from common.frames import decode_image
from common.optical_flow import flow_images, flow_method
from common.records import FrameSettings, settings_from_arguments
from common.video import encode_jpeg
from dataloader import skeleton_dataloader as skeletons
from dataloader.flow_dataloader import prepare_flow
from dataloader.frame_index import (
    holds_videos,
    index_frames,
    index_videos,
    looks_like_frames,
    looks_like_pose_flow,
    read_video_frames,
)
from dataloader.images import crop_box, read_frames, to_input
from dataloader.motion_pose_dataloader import keypoint_sample, load_all_keypoints, motion_sample
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH, TEST_SAMPLES, clips_for_testing
from dataloader.spatial_dataloader import load_boxes, read_boxes, spatial_sample
from dataloader.video_dataset import Prepared, Sample, sample_for_testing
from network import (
    IMAGE_NETWORKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Family,
    Model,
    read_weights,
    rgb_statistics,
    trained_channels,
)
from pose.draw import draw_people, encode_pose_image
from pose.graph_network import GRAPH_NETWORKS, moments_of
from pose.keypoints import FILE_NAME, Keypoints, join_frames, people_of_frame, too_few_people
from pose.people import crop_people
from training.options import RECIPES


@dataclass
class Window:
    """Following frames of a video, numbered from 1: a whole file, a part of it, or what a camera showed last.

    `pictures`: uint8 RGB (H, W, 3) of those that the streams look at, as the streams were trained on them. `people`:
    (P, 18, 3) of those that were searched for people; `frame_size` is the (height, width) of these.
    """

    num_frames: int
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    people: dict[int, np.ndarray] = field(default_factory=dict)
    frame_size: tuple[int, int] | None = None

    @property
    def shown(self) -> dict[int, bool]:
        """Whether each frame that was searched shows somebody."""
        return {number: bool((people[..., 2] > 0).any()) for number, people in self.people.items()}

    @property
    def nobody(self) -> bool:
        """Whether too few of the frames that were searched show people for poses to tell anything."""
        return too_few_people(sum(self.shown.values()), len(self.people))

    @property
    def keypoints(self) -> Keypoints:
        """Its people as those of a video of so many frames."""
        return join_frames(self.people, self.num_frames, self.frame_size)


def _frames_of_clips(num_frames: int, clips: int, length: int = STACK_LENGTH) -> list[int]:
    return clips_for_testing(num_frames, length, clips)[0]


def _all_frames(num_frames: int, clips: int) -> range:
    return range(1, num_frames + 1)


@dataclass(frozen=True)
class Stream:
    """What tells a stream from the others.

    `find(args, videos)` finds the videos below `args.data`: it returns those that can be used, `(video, reason)` for
    the others, and the function `sample(video, generator, clips=…)` that reads what the clips of a video need.
    `to_input(images, index)` makes `in_channels` channels of a sample for a network of the `family`; a test votes over
    `test_clips`. Records are called `<prefix>_train.csv`, ….

    For prediction, `looks_at(num_frames, clips)` are the frames of a window whose pictures a test looks at, or whose
    people, if it is `of_people`; `in_box` shows the box of the main people, whom all frames tell;
    `look(window, model, clips)` makes the sample that `sample` would read from disk.
    """

    name: str
    prefix: str
    in_channels: int
    find: Callable[[Namespace, Sequence[Video]], Prepared]
    to_input: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    length: int = 1  # images of a clip
    test_clips: int = TEST_SAMPLES
    family: Family = IMAGE_NETWORKS
    look: Callable[[Window, Model, int], Sample] | None = None
    looks_at: Callable[[int, int], Collection[int]] = _frames_of_clips
    of_people: bool = False
    in_box: bool = False


# ---- samples of data on disk ----


def video_settings(args: Namespace) -> FrameSettings:
    """How frames are made of the videos in `args.data`, if these are videos: without a JPEG."""
    return settings_from_arguments(args, FrameSettings(quality=None))


def _find_frames(args: Namespace, videos: Sequence[Video]) -> Prepared:
    if looks_like_pose_flow(args.data):
        raise UserError(f"--data {args.data}: holds {FILE_NAME}, so it is pose flow; give the folder of RGB frames")
    if args.data.is_dir() and holds_videos(args.data):
        settings = video_settings(args)
        good, bad = index_videos(args.data, videos, settings)
        read: Callable = partial(read_video_frames, settings=settings)
    else:
        (good, bad), read = index_frames(args.data, videos), read_frames
    if args.keypoints:
        if not args.keypoints.is_dir():
            raise UserError(f"--keypoints {args.keypoints}: no such folder; give one of pose flow (process_pose.py)")
        boxes, _, unknown = load_boxes(args.keypoints, [item.video for item in good])
        good, bad = [item for item in good if item.video.name in boxes], bad + unknown
        read = partial(read_boxes, read=read, boxes={item.frames.folder: boxes[item.video.name] for item in good})
    augmentation = args.crop, args.color_jitter
    return good, bad, partial(spatial_sample, read=read, image_size=args.image_size, augmentation=augmentation)


def _refuse_frames(data: Path) -> None:
    if looks_like_frames(data):
        raise UserError(f"--data {data}: holds RGB frames; give the folder of pose flow, see process_pose.py")


def _find_poses(args: Namespace, videos: Sequence[Video]) -> Prepared:
    _refuse_frames(args.data)
    options = {"image_size": args.image_size, "segments": args.segments, "crop": args.crop}
    if not args.from_keypoints:
        return *index_frames(args.data, videos), partial(motion_sample, **options)
    keypoints, good, bad = load_all_keypoints(args.data, videos, args.crop == "people")
    return good, bad, partial(keypoint_sample, keypoints=keypoints, **options)


def _find_flow(args: Namespace, videos: Sequence[Video]) -> Prepared:
    good, bad, sample = prepare_flow(args.data, videos)
    return good, bad, partial(sample, image_size=args.image_size, segments=args.segments, crop=args.crop)


def _find_paths(args: Namespace, videos: Sequence[Video]) -> Prepared:
    _refuse_frames(args.data)
    return skeletons.prepare_skeletons(args.data, videos, moments_of(args.arch))


# ---- samples of windows in memory ----


def _look_at_frames(window: Window, model: Model, clips: int) -> Sample:
    shown = window.pictures
    if model.checkpoint.get("options", {}).get("keypoints"):
        box = skeletons.people_box(window.keypoints) / window.frame_size[0]
        shown = {number: crop_box(picture, box) for number, picture in shown.items()}
    return sample_for_testing(partial(map, shown.__getitem__), window.num_frames, 1, model.image_size, clips)


def _look_at_poses(window: Window, model: Model, clips: int) -> Sample:
    """Drawings, or their JPEG files if the stream was trained on such."""
    options = trained_options(MOTION_POSE, model.checkpoint.get("options", {}))
    shown = window.keypoints
    if options["crop"] == "people":
        shown = crop_people(shown, skeletons.people_box(shown))

    def draw(number: int) -> np.ndarray:
        drawn = people_of_frame(shown, number), shown.frame_size
        return decode_image(encode_pose_image(*drawn)) if options["from_keypoints"] is False else draw_people(*drawn)

    return sample_for_testing(partial(map, draw), window.num_frames, STACK_LENGTH, model.image_size, clips)


def _pair(number: int, num_frames: int) -> range:
    """The frames between which the flow of a frame lies: it and the next one, at the end those before."""
    first = max(min(number, num_frames - 1), 1)
    return range(first, min(first + 1, num_frames) + 1)


def _pairs_of_clips(num_frames: int, clips: int) -> set[int]:
    return {number for first in _frames_of_clips(num_frames, clips) for number in _pair(first, num_frames)}


def _look_at_flow(window: Window, model: Model, clips: int) -> Sample:
    method = flow_method(model.checkpoint.get("options", {}).get("flow_method") or "dis", model.device)

    def compute(number: int) -> np.ndarray:
        """The flow from a frame to the next one, uint8 (H, W, 2), as extract_flow.py writes it."""
        image = next(flow_images((window.pictures[i] for i in _pair(number, window.num_frames)), method))
        return np.stack([decode_image(encode_jpeg(grey))[..., 0] for grey in np.moveaxis(image, 2, 0)], 2)

    return sample_for_testing(partial(map, compute), window.num_frames, STACK_LENGTH, model.image_size, clips)


def _look_at_paths(window: Window, model: Model, clips: int) -> Sample:
    return skeletons.skeleton_clips(skeletons.normalized_paths(window.keypoints), moments_of(model.arch))


# ---- streams ----


# Single RGB frames, normalised as ImageNet's.
SPATIAL = Stream(
    "spatial",
    "rgb",
    3,
    _find_frames,
    partial(to_input, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    look=_look_at_frames,
    looks_at=partial(_frames_of_clips, length=1),
)
# Stacks of 10 pose-flow images, read from disk or drawn from keypoints. Mean and standard deviation are those of
# images of real and of synthetic people, which agree within a tenth: mostly black, thin lines.
MOTION_POSE = Stream(
    "motion_pose",
    "posef",
    3 * STACK_LENGTH,
    _find_poses,
    partial(to_input, mean=(0.016, 0.019, 0.010), std=(0.115, 0.125, 0.089)),
    length=STACK_LENGTH,
    look=_look_at_poses,
    of_people=True,
)
# Stacks of the optical flow of 10 following frames: u1 v1 u2 v2 …, −20 to 20 pixels as −1 to 1.
FLOW = Stream(
    "flow",
    "flow",
    2 * STACK_LENGTH,
    _find_flow,
    partial(to_input, mean=(0.5, 0.5), std=(0.5, 0.5)),
    length=STACK_LENGTH,
    look=_look_at_flow,
    looks_at=_pairs_of_clips,
)
# The coordinates of the main people's parts.
SKELETON = Stream(
    "skeleton",
    "skeleton",
    skeletons.CHANNELS,
    _find_paths,
    skeletons.skeleton_input,
    test_clips=skeletons.TEST_CLIPS,
    family=GRAPH_NETWORKS,
    look=_look_at_paths,
    looks_at=_all_frames,
    of_people=True,
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
    if options.get("crop") == "people" or options.get("keypoints"):
        stream = replace(stream, in_box=True)
    if not options.get("normalize", True):
        return replace(stream, to_input=partial(to_input, mean=None, std=None))
    if stream.name == SPATIAL.name and options.get("arch"):
        mean, std = rgb_statistics(options["arch"])
        return replace(stream, to_input=partial(to_input, mean=mean, std=std))
    return stream
