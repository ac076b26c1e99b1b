"""What tells one stream from the other."""

from collections.abc import Callable
from dataclasses import dataclass

from dataloader.motion_keypoints import prepare_keypoints
from dataloader.motion_pose_dataloader import prepare_pose_flow
from dataloader.sampling import STACK_LENGTH
from dataloader.spatial_dataloader import IMAGENET_MEAN, IMAGENET_STD, prepare_frames


@dataclass(frozen=True)
class Stream:
    """What tells one stream from the other.

    `sample(video, generator, image_size)` reads a video's images, `length` of them to a clip; `mean` and
    `std` normalise them (None: values stay in [0, 1]); records are called `<prefix>_train.csv`, ….
    `prepare(root, videos)` finds the videos: it returns good ones, bad ones with the reason, and `sample`.
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


# Single RGB frames, normalised as ImageNet's.
SPATIAL = Stream("spatial", "rgb", length=1, prepare=prepare_frames, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Stacks of 10 pose-flow images with values in [0, 1], read from disk or drawn from keypoints.
MOTION_POSE = Stream("motion_pose", "posef", length=STACK_LENGTH, prepare=prepare_pose_flow)
MOTION_POSE_FROM_KEYPOINTS = Stream("motion_pose", "posef", length=STACK_LENGTH, prepare=prepare_keypoints)
