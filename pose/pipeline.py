"""Pose estimation of many videos as a pipeline.

Threads read and scale frames, the calling thread runs the network, worker processes group, draw and write.
Between them are short queues, so that the slowest sets the speed.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from common.atomic import atomic_folder
from common.cli import UserError
from common.frames import FRAME_NAME, list_frames
from pose.estimators import Estimator
from pose.folders import draw_frames
from pose.interpolation import interpolate_people
from pose.keypoints import FILE_NAME, save_keypoints

AHEAD = 4  # batches between two stages
DRAW_CHUNK = 64


@dataclass(frozen=True)
class Video:
    """A folder of frames and the pose folder that belongs to it; `name` is the latter's within its root."""

    name: str
    frames: Path | None
    poses: Path


# ---- from frames to people ----


def estimate(
    estimator: Estimator, batches: Iterable[tuple], pool: Executor, load: Callable | None = None, readers: int = 2
) -> Iterator[tuple]:
    """Yield `(tag, people, frame_size, error)` of each `(tag, items)` in `batches`, in order, overlapping stages.

    `load(item)` gives a frame, uint8 (H, W, 3) RGB, without it the items are frames; the frames of one batch
    must be of one size. `people` is a list of float32 (P, 18, 3), one for each frame; of a batch that fails it
    is None and `error` the `UserError`. `batches` is read a few batches ahead. Wrap it in
    `contextlib.closing`.
    """
    batches = iter(batches)
    reading, grouping = deque(), deque()
    threads = ThreadPoolExecutor(max(readers, 1))
    try:
        while True:
            for tag, items in islice(batches, AHEAD - len(reading)):
                reading.append((tag, items, [threads.submit(_prepare, estimator, load, item) for item in items]))
            if not reading and not grouping:
                return
            if reading:
                tag, items, futures = reading.popleft()
                grouping.append((tag, *_infer(estimator, items, futures, pool)))
            while grouping and (not reading or len(grouping) > AHEAD or grouping[0][1].done()):
                tag, future, frame_size = grouping.popleft()
                people, error = None, None
                try:
                    people = future.result()
                except UserError as caught:
                    error = caught
                yield tag, people, frame_size, error
    finally:
        threads.shutdown(cancel_futures=True)


def _prepare(estimator: Estimator, load: Callable | None, item) -> tuple[np.ndarray, tuple[int, int]]:
    frame = item if load is None else load(item)
    return estimator.prepare(frame), frame.shape[:2]


def _infer(estimator: Estimator, items: list, futures: list[Future], pool: Executor) -> tuple[Future, tuple | None]:
    """The future people of a batch, and the (height, width) of its frames."""
    try:
        inputs, sizes = zip(*(future.result() for future in futures), strict=True)
        errors = [_size_error(item, size, sizes[0]) for item, size in zip(items, sizes, strict=True)]
        if any(errors):
            raise next(filter(None, errors))
        return pool.submit(_group, estimator.group, estimator.infer(inputs), sizes[0]), sizes[0]
    except UserError as error:
        failed = Future()
        failed.set_exception(error)
        return failed, None


def _group(group: Callable, raw: list, frame_size: tuple[int, int]) -> list[np.ndarray]:
    return [group(output, frame_size) for output in raw]


def _size_error(item, size: tuple[int, int], expected: tuple[int, int]) -> UserError | None:
    if size == expected:
        return None
    name = item if isinstance(item, (str, os.PathLike)) else "a frame"
    return UserError(
        f"{name}: {size[1]}x{size[0]} pixels, but the video's first frame has {expected[1]}x{expected[0]}; "
        "make its frames again"
    )


def read_frame(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3) RGB; raises `UserError`, naming the path, if it is broken."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = getattr(error, "strerror", None) or "the file is damaged or no image"
        raise UserError(f"{path}: cannot be read ({reason}); make it again") from None


# ---- from videos to pose folders ----


@dataclass
class _Work:
    """A video on its way through the pipeline."""

    video: Video
    num_frames: int
    behind: int = 0  # number of the last frame that is grouped
    failed: bool = False
    frame_size: tuple[int, int] | None = None
    people: dict[int, np.ndarray] = field(default_factory=dict)
    drawing: list[Future] = field(default_factory=list)
    folder: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


def process_videos(
    estimator: Estimator,
    videos: Iterable[Video],
    pool: Executor,
    *,
    batch_size: int = 8,
    every: int = 1,
    max_people: int | None = None,
    readers: int = 2,
    on_frames: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[Video, UserError | None]]:
    """Write the pose folder of each video, whole or not at all; yield `(video, error)` as each ends.

    Batches hold frames of one video, cut at the same places in every run, so that a video's result depends on
    nothing but its frames. Every `every`-th frame and the last one are estimated, those between interpolated.
    `max_people` keeps the people with the largest sums of scores in each frame. `on_frames` is told how many
    more frames are behind. A video that cannot be read is yielded with its `UserError`, errors in writing are
    raised. Wrap it in `contextlib.closing`.
    """
    ended, drawing = deque(), deque()

    def batches():
        for video in videos:
            try:
                frames = list_frames(video.frames)
                if not frames:
                    raise UserError(f"{video.frames}: no frames (frame000001.jpg, …) in it; extract them again")
            except UserError as error:
                ended.append((video, error))
                continue
            keys = key_frames(len(frames), every)
            work = _Work(video, len(frames))
            for start in range(0, len(keys), batch_size):
                if work.failed:
                    break
                chunk = keys[start : start + batch_size]
                yield (work, chunk), [frames[number - 1] for number in chunk]

    stream = estimate(estimator, batches(), pool, read_frame, readers)
    try:
        for (work, numbers), people, frame_size, error in stream:
            if work.failed:
                continue
            if error is None and work.frame_size is not None:
                first = Path(work.video.frames, FRAME_NAME.format(numbers[0]))
                error = _size_error(first, frame_size, work.frame_size)
            if error is not None:
                work.failed = True
                ended.append((work.video, error))
                on_frames(work.num_frames - work.behind)
            else:
                work.frame_size = frame_size
                work.people.update(zip(numbers, (limit_people(p, max_people) for p in people), strict=True))
                on_frames(numbers[-1] - work.behind)
                work.behind = numbers[-1]
                if work.behind == work.num_frames:
                    drawing.append(work)
                    _start_drawing(work, pool)
            while drawing and (len(drawing) > AHEAD or all(future.done() for future in drawing[0].drawing)):
                ended.append(_finish(drawing))
            while ended:
                yield ended.popleft()
        while drawing:
            ended.append(_finish(drawing))
        yield from ended
    finally:
        stream.close()
        futures = [future for work in drawing for future in work.drawing]
        wait([future for future in futures if not future.cancel()])
        for work in drawing:
            work.folder.__exit__(InterruptedError, InterruptedError(), None)


def _start_drawing(work: _Work, pool: Executor) -> None:
    people = fill_in(work.people, work.frame_size)
    folder = work.folder.enter_context(atomic_folder(work.video.poses))
    frame = np.repeat(np.arange(1, len(people) + 1, dtype=np.int32), [len(persons) for persons in people])
    save_keypoints(folder / FILE_NAME, np.concatenate(people), frame, len(people), work.frame_size)
    for start in range(0, len(people), DRAW_CHUNK):
        chunk = people[start : start + DRAW_CHUNK]
        work.drawing.append(pool.submit(draw_frames, folder, start + 1, chunk, work.frame_size))


def _finish(drawing: deque[_Work]) -> tuple[Video, None]:
    for future in drawing[0].drawing:
        future.result()
    drawing[0].folder.close()
    return drawing.popleft().video, None


def key_frames(num_frames: int, every: int) -> list[int]:
    """Numbers of the frames to estimate: 1, 1 + every, …, and the last one."""
    numbers = list(range(1, num_frames + 1, every))
    return numbers if numbers[-1] == num_frames else [*numbers, num_frames]


def fill_in(people: dict[int, np.ndarray], frame_size: tuple[int, int]) -> list[np.ndarray]:
    """People of every frame, from those of the frames of `key_frames`: a list of float32 (P, 18, 3)."""
    result = [people[1]]
    for first, second in zip(sorted(people), sorted(people)[1:], strict=False):
        result += [
            interpolate_people(people[first], people[second], (number - first) / (second - first), frame_size)
            for number in range(first + 1, second)
        ]
        result.append(people[second])
    return result


def limit_people(people: np.ndarray, max_people: int | None) -> np.ndarray:
    """The `max_people` people (None: all) with the largest sums of scores, in the order they were in."""
    if max_people is None or len(people) <= max_people:
        return people
    return people[np.sort(np.argsort(-people[..., 2].sum(axis=1), kind="stable")[:max_people])]
