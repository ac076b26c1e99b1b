"""Pose estimation of videos: threads read, group and write while the network runs."""

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.atomic import atomic_folder, temporary_name
from common.cli import UserError
from common.frames import FRAME_NAME, FRAME_PATTERN, check_size, count_frames, list_frames, read_image
from common.records import FrameSettings, read_record, write_record
from common.video import frames_of, made_of
from pose.draw import encode_pose_image
from pose.estimators import Estimator
from pose.keypoints import FILE_NAME, Keypoints, join_frames, load_keypoints, people_of_frame, save_keypoints
from pose.people import clean_people, interpolate_people

AHEAD = 4  # batches at work at once
RAW_NAME = "keypoints_raw.npz"  # beside the keypoints.npz of people that were cleaned


@dataclass(frozen=True)
class PoseJob:
    """A video's frames, a folder or the video's file, and its pose folder, `name` below the root of those."""

    name: str
    frames: Path
    poses: Path


class PoseOptions(NamedTuple):
    """How pose folders are made: every `every`-th frame and the last one are estimated, those between interpolated.

    `settings` are for their records; `cleaning` is that of `clean_people`; `images`: draw them. Frames of video
    files are `made` as extract_frames.py does, but for the JPEG.
    """

    settings: dict
    batch_size: int = 8
    every: int = 1
    cleaning: dict | None = None
    images: bool = True
    threads: int = AHEAD
    made: FrameSettings = FrameSettings()


# ---- from frames to people ----


def estimate(estimator: Estimator, batches: Iterable[tuple], threads: int = AHEAD) -> Generator[tuple, None, None]:
    """Yield `(tag, people, frame_size, error)` of each `(tag, items)` in `batches`, in order.

    An item is a frame, uint8 (H, W, 3) RGB, or its path; those of one batch must be of one size. `people` is a list of
    float32 (P, 18, 3), one for each frame; if a batch fails it is None, and `error` the `UserError`. Some batches are
    read and grouped while another one is in the network. Wrap it in `contextlib.closing`.
    """
    network = threading.Lock()

    def find(items: list) -> tuple[list[np.ndarray], tuple[int, int]]:
        frames = [item if isinstance(item, np.ndarray) else read_image(item) for item in items]
        for item, frame in zip(items, frames, strict=True):
            check_size(item if isinstance(item, Path) else "a frame", frame.shape[:2], frames[0].shape[:2])
        inputs = [estimator.prepare(frame) for frame in frames]
        with network:
            raw = estimator.infer(inputs)
        return [estimator.group(output, frames[0].shape[:2]) for output in raw], frames[0].shape[:2]

    def result() -> tuple:
        tag, future = running.popleft()
        try:
            return tag, *future.result(), None
        except UserError as error:
            return tag, None, None, error

    running: deque[tuple[Any, Future]] = deque()
    pool = ThreadPoolExecutor(min(max(threads, 1), AHEAD))
    try:
        for tag, items in batches:
            running.append((tag, pool.submit(find, items)))
            if len(running) > AHEAD:
                yield result()
        while running:
            yield result()
    finally:
        pool.shutdown(cancel_futures=True)


# ---- from videos to pose folders ----


def process_videos(
    estimator: Estimator,
    videos: Iterable[PoseJob],
    options: PoseOptions,
    damaged: dict[PoseJob, str],
    on_frames: Callable[[int], object],
) -> Generator[tuple[PoseJob, UserError | None], None, None]:
    """Write the pose folder of each video, whole or not at all; yield `(video, None)` as each is done.

    Batches are cut at the same frames in every run, so that a video's result depends on nothing but its frames.
    `on_frames` is told how many more frames are done; what could not be decoded of a file is noted in `damaged`. Videos
    that cannot be read come last, each with its `UserError`; errors in writing are raised. Wrap it in
    `contextlib.closing`.
    """
    failed: dict[PoseJob, UserError] = {}
    writing: deque[tuple[PoseJob, Future]] = deque()

    def named(video: PoseJob, error: UserError) -> UserError:
        return error if str(video.frames) in str(error) else UserError(f"{video.frames}: {error}")

    def batches() -> Iterator[tuple]:
        for video in videos:
            damage: list[str] = []
            try:
                with contextlib.closing(_key_items(video.frames, options.every, options.made, damage)) as items:
                    while video not in failed and (batch := list(islice(items, options.batch_size))):
                        numbers, frames = zip(*batch, strict=True)
                        yield (video, numbers), frames
            except UserError as error:
                failed[video] = named(video, error)
            if damage:
                damaged[video] = damage[0]

    def written(most: int) -> Iterator[tuple[PoseJob, None]]:
        """The videos whose folders are in their places; waits until at most `most` are not."""
        while writing and (len(writing) > most or writing[0][1].done()):
            video, job = writing.popleft()
            job.result()
            yield video, None

    stream = estimate(estimator, batches(), options.threads)
    pool = ThreadPoolExecutor(max(options.threads, 1))
    try:
        for video, results in groupby(stream, key=lambda result: result[0][0]):
            people, frame_size = {}, None
            try:
                for (*_, numbers), found, size, error in results:
                    if error:
                        raise error
                    frame_size = frame_size or size
                    check_size(f"{video.frames}, frame {numbers[0]}", size, frame_size)
                    on_frames(numbers[-1] - max(people, default=0))
                    people.update(zip(numbers, found, strict=True))
                    yield from written(AHEAD)
            except UserError as error:
                failed[video] = named(video, error)
            if video not in failed:
                everyone = fill_in(people, frame_size)
                data = join_frames(dict(enumerate(everyone, 1)), len(everyone), frame_size)
                writing.append((video, pool.submit(_write, video, data, options)))
        yield from written(0)
        yield from failed.items()
    finally:
        stream.close()
        pool.shutdown(cancel_futures=True)  # the folders at work are finished


def _write(video: PoseJob, data: Keypoints, options: PoseOptions) -> None:
    is_file = video.frames.is_file()
    frames = made_of(video.frames, options.made) if is_file else read_record(video.frames).get("frames")
    with atomic_folder(video.poses, temporary_name(video.poses)) as folder:
        write_poses(folder, data, options.cleaning, {"frames": frames, "people": options.settings}, options.images)


def _key_items(source: Path, every: int, made: FrameSettings, damage: list[str]) -> Generator[tuple, None, None]:
    """Number and path, or picture, of the frames to estimate of a folder, or of a video's file."""
    if source.is_dir():
        frames = list_frames(source)
        if not frames:
            raise UserError(f"{source}: no frames (frame000001.jpg, …) in it; extract them again")
        yield from ((number, frames[number - 1]) for number in key_frames(len(frames), every))
        return
    number = 0
    with contextlib.closing(frames_of(source, made, damage=damage)) as pictures:
        for number, frame in enumerate(pictures, 1):
            if (number - 1) % every == 0:
                yield number, frame
    if (number - 1) % every:
        yield number, frame


def key_frames(num_frames: int, every: int) -> list[int]:
    """Numbers of the frames to estimate: 1, 1 + every, …, and the last one."""
    return [*range(1, num_frames, every), num_frames]


def fill_in(people: dict[int, np.ndarray], frame_size: tuple[int, int]) -> list[np.ndarray]:
    """People of every frame, from those of the frames of `key_frames`: a list of float32 (P, 18, 3)."""
    result = [people[1]]
    for first, second in pairwise(sorted(people)):
        result += [
            interpolate_people(people[first], people[second], (number - first) / (second - first), frame_size)
            for number in range(first + 1, second)
        ]
        result.append(people[second])
    return result


# ---- pose folders ----


def is_finished(folder: Path, num_frames: int | None = None, images: bool = True) -> bool:
    """Whether a pose folder has keypoints, of so many frames if given, and, if wanted, an image for each frame."""
    with contextlib.suppress(UserError):
        found = load_keypoints(folder / FILE_NAME).num_frames
        return found == (num_frames or found) and (not images or found == count_frames(folder))
    return False


def write_poses(folder: Path, data: Keypoints, cleaning: dict | None, record: dict, images: bool = True) -> None:
    """Write the keypoints of a video into a folder, draw its `images`, and keep the `record`.

    With `cleaning` (see `clean_people`) they are those of the people that it leaves; all are kept in `RAW_NAME`.
    """
    if cleaning:
        save_keypoints(folder / RAW_NAME, *vars(data).values())
        data = clean_people(data, cleaning)
    save_keypoints(folder / FILE_NAME, *vars(data).values())
    for number in range(1, data.num_frames + 1 if images else 1):
        image = encode_pose_image(people_of_frame(data, number), data.frame_size)
        (folder / FRAME_NAME.format(number)).write_bytes(image)
    write_record(folder, record | {"count": data.num_frames if images else None})


def redraw(video: PoseJob, scratch: Path, cleaning: dict | None = None) -> None:
    """Draw a pose folder's images anew from its keypoints, in the folder `scratch` until all are drawn.

    With `cleaning` from those before it, so that cleaning twice, or with other options, is the same as cleaning once.
    """
    folder, raw = video.poses, video.poses / RAW_NAME
    data = load_keypoints(raw if cleaning and raw.exists() else folder / FILE_NAME)
    record = read_record(folder)
    record["frames"] = read_record(video.frames).get("frames") or record.get("frames")
    record["people"] = ((record.get("people") or {}) | (cleaning or {})) or None
    with atomic_folder(folder, scratch / video.name) as temporary:
        for file in folder.iterdir():
            made = FRAME_PATTERN.fullmatch(file.name) or (cleaning and file.name in (FILE_NAME, RAW_NAME))
            if file.is_file() and not made:
                shutil.copy2(file, temporary / file.name)
        write_poses(temporary, data, cleaning, record)
