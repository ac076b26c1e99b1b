"""One video through trained streams, by the same code and images as the steps from videos to score pickles."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.cli import UserError
from common.frames import FRAME_NAME
from common.video import decode_frames, encode_jpeg, resize_short_side
from dataloader.frame_index import IndexedVideo
from dataloader.images import to_input
from dataloader.motion_pose_dataloader import motion_sample
from dataloader.names import Video, stem
from dataloader.sampling import stack_indices, test_starts
from dataloader.spatial_dataloader import spatial_sample
from dataloader.split_train_test_video import read_class_index
from network import for_testing, read_model
from pose.estimators import Estimator
from pose.folders import draw_frames
from pose.keypoints import Keypoints, people_of_frame
from pose.pipeline import estimate, limit_people, read_frame
from training.streams import Stream

BATCH = 8  # frames that go through a pose network together
THREADS = min(os.cpu_count() or 1, 8)  # of the video decoder


@dataclass(frozen=True)
class Classifier:
    """A trained stream and what its checkpoint says about it; `network` is made for testing, on `device`."""

    stream: Stream
    network: nn.Module
    arch: str
    image_size: int
    classes: list[str]
    path: Path
    device: torch.device


class FrameOptions(NamedTuple):
    """How frames are made from a video: those of `extract_frames.py`."""

    every: int = 1
    short_side: int = 256
    quality: int = 95


@dataclass
class Poses:
    """People (P, 18, 3) by the number of their frame, from 1, and the (height, width) of the frames."""

    people: dict[int, np.ndarray] = field(default_factory=dict)
    frame_size: tuple[int, int] | None = None


class Answer(NamedTuple):
    """What the streams say about a video: `logits` by stream, float32 (classes,), means over the test positions.

    `num_frames` counts the frames made from it, `poses` holds those that were looked at, `damage` says in a
    line what of the file could not be decoded ("": nothing).
    """

    logits: dict[str, np.ndarray]
    num_frames: int
    poses: Poses
    damage: str


# ---- streams ----


def load_classifier(path: Path, stream: Stream, class_index: Path, device: torch.device) -> Classifier:
    """Load a stream's checkpoint for testing.

    Classes, architecture and image size are the checkpoint's; the file `class_index` names the classes of one
    that does not. Raises `UserError` if it is no checkpoint, or another stream's.
    """
    model = read_model(path, stream.in_channels)
    classes, count = model.classes, model.network.fc.out_features
    if classes is None:
        if not class_index.is_file():
            raise UserError(
                f"{path}: does not name its {count} classes, and {class_index} is not there to do it; "
                "give --ucf-list and --class-index"
            )
        classes = read_class_index(class_index)
        if len(classes) != count:
            raise UserError(
                f"{path}: does not name its {count} classes, and {class_index} has {len(classes)}; give "
                "the --class-index that it was trained with"
            )
    network = for_testing(model.network, device)
    return Classifier(stream, network, model.arch, model.image_size, classes, path, device)


def require_same_classes(classifiers: Sequence[Classifier]) -> None:
    """Raise a `UserError` that tells the difference unless all know the same classes in the same order."""
    first, *others = classifiers
    for other in others:
        differing = (i for i, names in enumerate(zip_longest(first.classes, other.classes), 1) if len(set(names)) > 1)
        number = next(differing, None)
        if number is not None:
            one, two = (
                repr(names[number - 1]) if number <= len(names) else "missing"
                for names in (first.classes, other.classes)
            )
            raise UserError(
                f"{first.path} and {other.path} were trained on different classes, {len(first.classes)} and "
                f"{len(other.classes)} of them: number {number} is {one} in one and {two} in the other; give "
                "checkpoints of the same class index"
            )


@torch.inference_mode()
def score(classifier: Classifier, sample: Callable, folder: Path, num_frames: int, amp: bool = False) -> np.ndarray:
    """Mean logits, float32 (classes,), over the test positions of a video whose images lie in `folder`.

    `sample` is the stream's function that reads them; those that no position needs may be missing. `amp`: mixed
    precision. Raises `UserError` if the logits are not finite.
    """
    stream, device = classifier.stream, classifier.device
    video = IndexedVideo(Video(folder.name, 0, "", folder.name), str(folder), num_frames)
    images, index = sample(video, None, classifier.image_size)
    inputs = to_input(images.to(device), index.to(device), stream.mean, stream.std)
    with torch.autocast(device.type, enabled=amp):
        logits = classifier.network(inputs)
    votes = logits.float().mean(0).cpu().numpy()
    if not np.isfinite(votes).all():
        raise UserError(f"the scores of {classifier.path} are not finite; try --no-amp, or another checkpoint")
    return votes


# ---- videos ----


def classify(
    path: Path,
    spatial: Classifier | None,
    motion: Classifier | None,
    source: Estimator | Keypoints | None,
    pool: Executor,
    options: FrameOptions,
    *,
    every_pose: bool = False,
    max_people: int | None = None,
    amp: bool = False,
) -> Answer:
    """Test one or both streams on a video file.

    The frames that the test positions need, made as `extract_frames.py` makes them, go to a temporary folder, and
    so do the pose-flow images, made as `process_pose.py` makes them, of the people that `source` finds or holds
    (None, without motion stream: no people). `every_pose` asks for the people of all frames, not only of those
    that the motion stream needs. `pool` groups, `amp` means mixed precision of the streams.

    The video is decoded twice, for the test positions depend on the number of frames, and keeping all of a long
    video's would take too much memory. Raises `UserError` if it cannot be read or does not fit the keypoints.
    """
    damage: list[str] = []
    num_frames = sum(1 for _ in decode_frames(path, options.every, THREADS, damage))
    starts = test_starts(num_frames)
    seen = set(starts) if spatial else set()
    drawn = {number for start in starts for number in stack_indices(start, num_frames)} if motion else set()
    posed = set(range(1, num_frames + 1)) if every_pose else drawn
    with tempfile.TemporaryDirectory(prefix="predict-") as root:
        rgb, flow = Path(root, "rgb"), Path(root, "pose_flow")
        rgb.mkdir()
        flow.mkdir()
        if isinstance(source, Estimator):
            with _progress(path, len(posed)) as bar:
                poses = _find_people(_make_frames(path, options, posed, seen, rgb), source, pool, bar)
        else:
            for _ in _make_frames(path, options, set(), seen, rgb):
                pass
            poses = _look_up(source, posed, num_frames)
        poses.people.update({number: limit_people(people, max_people) for number, people in poses.people.items()})
        for number in drawn:
            draw_frames(flow, number, [poses.people[number]], poses.frame_size)
        tests = ((spatial, spatial_sample, rgb), (motion, motion_sample, flow))
        logits = {
            classifier.stream.name: score(classifier, sample, folder, num_frames, amp)
            for classifier, sample, folder in tests
            if classifier
        }
    return Answer(logits, num_frames, poses, "".join(damage))


def _make_frames(
    path: Path, options: FrameOptions, given: set[int], saved: set[int], folder: Path
) -> Iterator[tuple[int, bytes]]:
    """Make the frames of both sets as JPEG files; save those of `saved` in `folder`, yield those of `given`."""
    missing = given | saved
    with contextlib.closing(decode_frames(path, options.every, THREADS)) as pictures:
        for number, rgb in enumerate(pictures, 1) if missing else ():
            if number in missing:
                jpeg = encode_jpeg(resize_short_side(rgb, options.short_side), options.quality)
                missing.discard(number)
                if number in saved:
                    (folder / FRAME_NAME.format(number)).write_bytes(jpeg)
                if number in given:
                    yield number, jpeg
            if not missing:
                return
    if missing:
        raise UserError("a second look gives fewer frames than the first; is the file being written?")


def _find_people(frames: Iterator[tuple[int, bytes]], estimator: Estimator, pool: Executor, bar: tqdm) -> Poses:
    """People of numbered frames; raises `UserError` if these are not all of one size."""
    poses = Poses()

    def batches():
        while batch := list(islice(frames, BATCH)):
            yield tuple(zip(*batch, strict=True))

    people = estimate(estimator, batches(), pool, lambda jpeg: read_frame(io.BytesIO(jpeg)))
    with contextlib.closing(people):
        for numbers, found, frame_size, error in people:
            if error is None and poses.frame_size not in (None, frame_size):
                error = UserError(
                    f"its frames change from {poses.frame_size} to {frame_size} pixels (height, width); "
                    "poses need one size"
                )
            if error is not None:
                raise error
            poses.frame_size = frame_size
            poses.people.update(zip(numbers, found, strict=True))
            bar.update(len(numbers))
    return poses


def _look_up(keypoints: Keypoints | None, numbers: set[int], num_frames: int) -> Poses:
    """People of the frames `numbers` from a video's keypoints, of none without these."""
    if keypoints is None:
        return Poses()
    if keypoints.num_frames != num_frames:
        raise UserError(
            f"its keypoints are those of {keypoints.num_frames} frames, but it has {num_frames}; give the "
            "keypoints that belong to it, and --every as they were made with"
        )
    return Poses({number: people_of_frame(keypoints, number) for number in numbers}, keypoints.frame_size)


def _progress(path: Path, total: int) -> tqdm:
    return tqdm(total=total, desc=stem(path.name), unit=" frames", leave=False, disable=None)
