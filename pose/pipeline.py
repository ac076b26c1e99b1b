"""Pose estimation of videos: threads read, group and write while the network runs."""

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
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

    `settings` are kept in their records; `cleaning`: see `clean_people`; `images`: draw them as well. Frames of video
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


def estimate(
    estimator: Estimator, batches: Iterable[tuple], load: Callable | None = None, threads: int = AHEAD
) -> Generator[tuple, None, None]:
    """Yield `(tag, people, frame_size, error)` of each `(tag, items)` in `batches`, in order.

    `load(item)` gives a frame, uint8 (H, W, 3) RGB, without it the items are frames; those of one batch must be of
    one size. `people` is a list of float32 (P, 18, 3), one for each frame; of a batch that fails it is None and
    `error` the `UserError`. Some batches are read and grouped while another one is in the network. Wrap it in
    `contextlib.closing`.
    """
    network = threading.Lock()

    def find(items: list) -> tuple[list[np.ndarray], tuple[int, int]]:
        frames = [load(item) if load else item for item in items]
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
    writing: deque[tuple[PoseJob, Path, Future]] = deque()

    def batches() -> Iterator[tuple]:
        for video in videos:
            damage: list[str] = []
            try:
                with contextlib.closing(_key_items(video.frames, options.every, options.made, damage)) as items:
                    while video not in failed and (batch := list(islice(items, options.batch_size))):
                        numbers, frames = zip(*batch, strict=True)
                        yield (video, numbers), frames
            except UserError as error:
                failed[video] = error
            if damage:
                damaged[video] = damage[0]

    def written(most: int) -> Iterator[tuple[PoseJob, None]]:
        """The videos whose folders are in their places; waits until at most `most` are not."""
        while writing and (len(writing) > most or writing[0][2].done()):
            writing[0][2].result()
            yield writing.popleft()[0], None

    stream = estimate(estimator, batches(), _read, options.threads)
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
                named = str(video.frames) in str(error)
                failed[video] = error if named else UserError(f"{video.frames}: {error}")
            if video not in failed:
                everyone = fill_in(people, frame_size)
                data = join_frames(dict(enumerate(everyone, 1)), len(everyone), frame_size)
                temporary = temporary_name(video.poses)
                writing.append((video, temporary, pool.submit(_write, video, temporary, data, options)))
        yield from written(0)
        yield from failed.items()
    finally:
        stream.close()
        for _, temporary, job in writing:
            job.cancel()
            with contextlib.suppress(OSError):  # one at work fails for want of its folder
                shutil.rmtree(temporary.rename(temporary_name(temporary)))
        wait([job for _, _, job in writing])
        pool.shutdown()


def _write(video: PoseJob, temporary: Path, data: Keypoints, options: PoseOptions) -> None:
    is_file = video.frames.is_file()
    frames = made_of(video.frames, options.made) if is_file else read_record(video.frames).get("frames")
    with atomic_folder(video.poses, temporary):
        record = {"frames": frames, "people": options.settings}
        write_poses(temporary, data, options.cleaning, record, options.images)


def _key_items(source: Path, every: int, made: FrameSettings, damage: list[str]) -> Generator[tuple, None, None]:
    """Number and path, or picture, of the frames to estimate of a folder, or of a video's file."""
    if source.is_dir():
        frames = list_frames(source)
        if not frames:
            raise UserError(f"{source}: no frames (frame000001.jpg, …) in it; extract them again")
        yield from ((number, frames[number - 1]) for number in key_frames(len(frames), every))
        return
    number = 0
    try:
        with contextlib.closing(frames_of(source, made, damage=damage)) as pictures:
            for number, frame in enumerate(pictures, 1):
                if (number - 1) % every == 0:
                    yield number, frame
    except UserError as error:  # it does not name the file
        raise UserError(f"{source}: {error}") from None
    if (number - 1) % every:
        yield number, frame


def _read(item: Path | np.ndarray) -> np.ndarray:
    return item if isinstance(item, np.ndarray) else read_image(item)


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


def finished_keypoints(folder: Path, num_frames: int | None = None, images: bool = True) -> Keypoints | None:
    """Keypoints of a pose folder of so many frames, if given, that has an image for each if `images`; else None."""
    with contextlib.suppress(UserError):
        keypoints = load_keypoints(folder / FILE_NAME)
        drawn = count_frames(folder) if images else keypoints.num_frames
        if drawn == keypoints.num_frames == (num_frames or keypoints.num_frames):
            return keypoints
    return None


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


def redraw(job: tuple[Path, Path, Path], cleaning: dict | None = None) -> None:
    """Draw a pose folder's images anew from its keypoints; `job`: the folder, its temporary name, that of the frames.

    With `cleaning` from those before it, so that cleaning twice, or with other options, is the same as cleaning once.
    """
    folder, temporary, frames = job
    raw = folder / RAW_NAME if cleaning and (folder / RAW_NAME).exists() else folder / FILE_NAME
    data = load_keypoints(raw)
    with atomic_folder(folder, temporary):
        for file in folder.iterdir():
            made = FRAME_PATTERN.fullmatch(file.name) or (cleaning and file.name in (FILE_NAME, RAW_NAME))
            if file.is_file() and not made:
                shutil.copy2(file, temporary / file.name)
        record = read_record(folder)
        record["frames"] = read_record(frames).get("frames") or record.get("frames")
        record["people"] = ((record.get("people") or {}) | (cleaning or {})) or None
        write_poses(temporary, data, cleaning, record)
