"""What tells one stream from the others."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

from common.cli import UserError
from dataloader.frame_index import looks_like_frames, looks_like_pose_flow
from dataloader.motion_keypoints import prepare_keypoints
from dataloader.motion_pose_dataloader import prepare_pose_flow
from dataloader.sampling import STACK_LENGTH
from dataloader.spatial_dataloader import IMAGENET_MEAN, IMAGENET_STD, prepare_frames
from pose.keypoints import FILE_NAME


@dataclass(frozen=True)
class Stream:
    """What tells a stream from the others.

    `prepare(args, videos)` finds the videos below `args.data`: it returns those that can be used, `(video,
    reason)` for the others, and the function `sample(video, generator, image_size)` that reads a video's images,
    `length` of them to a clip. `mean` and `std` normalise them (None: values stay in [0, 1]); records are called
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


def _prepare_spatial(args: Namespace, videos: list):
    if looks_like_pose_flow(args.data):
        raise UserError(f"--data {args.data}: holds {FILE_NAME}, so it is pose flow; give the folder of RGB frames")
    return prepare_frames(args.data, videos)


def _prepare_motion_pose(args: Namespace, videos: list):
    if looks_like_frames(args.data):
        raise UserError(f"--data {args.data}: holds RGB frames; give the folder of pose flow, see process_pose.py")
    return (prepare_keypoints if args.from_keypoints else prepare_pose_flow)(args.data, videos)


# Single RGB frames, normalised as ImageNet's.
SPATIAL = Stream("spatial", "rgb", length=1, prepare=_prepare_spatial, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Stacks of 10 pose-flow images with values in [0, 1], read from disk or drawn from keypoints.
MOTION_POSE = Stream("motion_pose", "posef", length=STACK_LENGTH, prepare=_prepare_motion_pose)
STREAMS = {stream.name: stream for stream in (SPATIAL, MOTION_POSE)}
