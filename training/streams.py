"""What tells one stream from the others."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from common.cli import UserError
from dataloader.frame_index import looks_like_frames, looks_like_pose_flow
from dataloader.motion_keypoints import prepare_keypoints
from dataloader.motion_pose_dataloader import prepare_pose_flow
from dataloader.sampling import STACK_LENGTH
from dataloader.spatial_dataloader import IMAGENET_MEAN, IMAGENET_STD, prepare_frames
from pose.keypoints import FILE_NAME
from training.recipes import RECIPES


@dataclass(frozen=True)
class Stream:
    """What tells a stream from the others.

    `prepare(args, videos)` finds the videos below `args.data`: it returns those that can be used, `(video,
    reason)` for the others, and the function `sample(video, generator, image_size)` that reads a video's images,
    `length` of them to a clip. `mean` and `std` normalise their values in [0, 1] (None: do not); records are called
    `<prefix>_train.csv`, ….
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

    def normalized(self, normalize: bool) -> "Stream":
        """This stream with `normalize`, else with values in [0, 1]."""
        return self if normalize else replace(self, mean=None, std=None)


def _prepare_spatial(args: Namespace, videos: list):
    if looks_like_pose_flow(args.data):
        raise UserError(f"--data {args.data}: holds {FILE_NAME}, so it is pose flow; give the folder of RGB frames")
    good, bad, sample = prepare_frames(args.data, videos)
    return good, bad, partial(sample, scale_jitter=args.scale_jitter, color_jitter=args.color_jitter)


def _prepare_motion_pose(args: Namespace, videos: list):
    if looks_like_frames(args.data):
        raise UserError(f"--data {args.data}: holds RGB frames; give the folder of pose flow, see process_pose.py")
    if args.from_keypoints is None:  # the checkpoint keeps what was chosen
        args.from_keypoints = looks_like_pose_flow(args.data)
    good, bad, sample = (prepare_keypoints if args.from_keypoints else prepare_pose_flow)(args.data, videos)
    return good, bad, partial(sample, segments=args.segments)


# Single RGB frames, normalised as ImageNet's.
SPATIAL = Stream("spatial", "rgb", length=1, prepare=_prepare_spatial, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Stacks of 10 pose-flow images, read from disk or drawn from keypoints. Mean and standard deviation are those of
# images of real and of synthetic people, which agree within a tenth: mostly black, thin lines.
MOTION_POSE = Stream(
    "motion_pose",
    "posef",
    length=STACK_LENGTH,
    prepare=_prepare_motion_pose,
    mean=(0.016, 0.019, 0.010),
    std=(0.115, 0.125, 0.089),
)
STREAMS = {stream.name: stream for stream in (SPATIAL, MOTION_POSE)}


def trained_stream(name: str, options: dict) -> Stream:
    """The stream as a checkpoint with these options was trained; what they do not tell is the original recipe's."""
    return STREAMS[name].normalized((RECIPES[name]["original"] | options)["normalize"])
