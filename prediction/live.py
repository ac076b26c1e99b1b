"""Classify what a camera shows, as it shows it: the newest frames are searched for people, a sliding window scored.

Frames that come while the pose network works are skipped, never queued. One thread reads the source, the caller's
finds people, and a third one scores windows, so that frames are handled while the streams work.
"""

import contextlib
import csv
import itertools
import queue
import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from common.cli import UserError
from common.video import in_order, open_video, read_frames, resize_short_side, through_jpeg, to_rgb, video_stream
from pose.estimators import Estimator
from pose.keypoints import join_frames
from pose.people import Follower, select_people
from pose.pipeline import fill_in
from prediction.classify import (
    NOBODY_IN_VIEW,
    Classifier,
    Options,
    Prediction,
    complete_people,
    describe,
    score,
    top_classes,
)
from prediction.overlay import Head
from prediction.persons import (
    LEAST_SHARE,
    MAX_GAP,
    Persons,
    choose_tracks,
    classify_windows_of,
    describe_persons,
    label_of,
    paths_of,
    window_of,
    words_of,
)
from prediction.timeline import NONE, Plan
from training.streams import Window
from utils import StopRequest, catch_stop_signals

SILENCE = 8.0  # seconds without a frame, or without an answer, after which a source counts as lost
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before the first, second, … attempt to get it back, then always the last
TURN = 0.1  # seconds that a caller waits for a frame at most
# Positions that a window is tested at: windows of 4 seconds, one every second, still vote over 20 of each 4 seconds.
CLIPS = 5
COLUMNS = ("time", "seconds", "frames", "fps", "people", "latency", "class", "probability")  # of the table
BOX_COLUMNS = ("person", "left", "top", "right", "bottom")  # besides, where each person gets an answer
Picture = Callable[[], np.ndarray]  # converts a decoded frame to uint8 RGB (H, W, 3): only of those that are handled
Opener = Callable[[str], Generator[Picture, None, None]]


# ---- sources ----


def read_source(source: str) -> Generator[Picture, None, None]:
    """The frames of a camera ("0", "/dev/video0"), an address or a file, each when it comes.

    What has a length (files, also behind an address) and HLS, which comes in pieces, are played at their own speed.
    Ends where a file ends; a `UserError` tells why a source cannot be read, or no longer.
    """
    camera = f"/dev/video{source}" if source.isdecimal() else source
    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
    if camera.startswith(("/dev/video", "/dev/v4l/")):
        opened = partial(av.open, camera, format="v4l2")
    elif "://" in source:
        opened = partial(av.open, source, options=options, timeout=SILENCE)
    else:
        opened = partial(open_video, source)
    try:
        with opened() as container:
            stream = video_stream(container, 1)
            has_end = bool(container.duration)
            aspect, reformatter = float(stream.sample_aspect_ratio or 1), VideoReformatter()
            frames, start = read_frames(container, stream, defaultdict(int)), time.monotonic()
            paced = has_end or container.format.name == "hls"
            for frame, due in in_order(frames, stream) if paced else frames:
                if paced:
                    time.sleep(max(start + due - time.monotonic(), 0))
                yield partial(to_rgb, frame, reformatter, aspect)
    except av.error.ExitError:
        raise UserError(f"no answer for {SILENCE:g} s") from None
    except (av.FFmpegError, ValueError) as error:  # PyAV's ValueError: a format that it was built without
        raise UserError(getattr(error, "strerror", None) or str(error)) from None
    if not has_end:
        raise UserError("the stream ended")


class Captured(NamedTuple):
    """A frame: when it came, by time.monotonic; its picture; which connection to the source it is of; its number."""

    time: float
    picture: Picture
    connection: int = 1
    number: int = 1


def newest_frames(
    source: str, opener: Opener = read_source, silence: float = SILENCE, pauses: Sequence[float] = PAUSES
) -> Generator[Captured | None, None, None]:
    """Yield the newest frame of a source again and again, None if none comes for a moment; others are skipped.

    A source is lost if its stream ends, breaks, or gives no frame for `silence` seconds; it is tried again, with
    growing pauses; a line on stderr tells of each loss and return. A file ends for good. `opener(source)` yields
    pictures, see `read_source`. Wrap it in `contextlib.closing`.
    """
    name = re.sub("//[^/]*@", "//", source)  # without the password of a camera
    count = attempts = 0
    for connection in itertools.count(1):
        try:
            with closing(_read_in_thread(opener(source), silence, connection, count)) as frames:
                for frame in frames:
                    if frame and attempts:
                        print(f"{name}: frames come again", file=sys.stderr, flush=True)
                        attempts = 0
                    count = frame.number if frame else count
                    yield frame
            if not count:
                raise UserError("no frame of it can be decoded")
            return
        except (UserError, OSError) as error:
            if not count:
                kinds = "give a camera that is free (0, /dev/video0), an address that answers, or a video file"
                raise UserError(f"--live {name}: {error}; {kinds}") from None
            pause = pauses[min(attempts, len(pauses) - 1)]
            attempts += 1
            print(f"{name}: lost ({error}); tried again in {pause:g} s", file=sys.stderr, flush=True)
        again = time.monotonic() + pause
        while (left := again - time.monotonic()) > 0:
            time.sleep(min(left, TURN))
            yield None


def _read_in_thread(
    pictures: Generator[Picture, None, None], silence: float, connection: int, count: int
) -> Generator[Captured | None, None, None]:
    """The newest of the pictures, numbered after `count`, or None if none comes for a moment; raises what ends them."""
    newest, closed = queue.SimpleQueue(), threading.Event()

    def read() -> None:
        end = None
        try:
            with closing(pictures):
                for number, picture in enumerate(pictures, count + 1):
                    if closed.is_set():
                        return
                    with contextlib.suppress(queue.Empty):
                        newest.get_nowait()
                    newest.put(Captured(time.monotonic(), picture, connection, number))
        except Exception as error:
            end = error
        newest.put(end)

    # A driver may block the thread for ever; then it ends with the first frame that comes after all.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    since = time.monotonic()
    try:
        while True:
            try:
                item = newest.get(timeout=TURN)
            except queue.Empty:
                if time.monotonic() - since > silence:
                    raise UserError(f"no frame for {silence:g} s") from None
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            since = item.time
            yield item
    finally:
        closed.set()
        thread.join(2 * TURN)


# ---- frames and windows ----


class Handled(NamedTuple):
    """A frame that was looked at: its time, its picture as in training, its people (None: nobody was looked for).

    `tracks`: int32 (P,), the numbers of these people, if they are followed.
    """

    time: float
    picture: np.ndarray
    people: np.ndarray | None
    tracks: np.ndarray | None = None


def handle(frame: Captured, classifier: Classifier) -> Handled:
    """The frame as the streams were trained on it, and its people, found on that."""
    settings, estimator = classifier.options.frames, classifier.people
    rgb = through_jpeg(resize_short_side(frame.picture(), settings.short_side), settings.quality)
    return Handled(frame.time, rgb, estimator([rgb])[0] if isinstance(estimator, Estimator) else None)


def resample(handled: Sequence[Handled], rate: float) -> Window:
    """The window from the first to the last handled frame at `rate` frames a second.

    Each moment gets the picture of the handled frame that is nearest. Its people are those of that frame if it is the
    moment nearest to one, else between those of the moments before and after, as if these had been estimated and the
    others not (`fill_in`).
    """
    moments = np.array([1 + (frame.time - handled[0].time) * rate for frame in handled])
    of_frames = np.rint(moments).astype(int).tolist()
    numbers = range(1, of_frames[-1] + 1)
    nearest = {number: handled[np.abs(moments - number).argmin()] for number in numbers}
    pictures = {number: frame.picture for number, frame in nearest.items()}
    window = Window(len(numbers), pictures, frame_size=pictures[1].shape[:2])
    if handled[0].people is not None:
        found = {number: nearest[number].people for number in of_frames}
        window.people = dict(enumerate(fill_in(found, window.frame_size), 1))
    return window


def classify_window(handled: Sequence[Handled], classifier: Classifier) -> Prediction:
    """Score handled frames, resampled to the rate of those that the streams were trained on."""
    window = window_of_frames(handled, classifier.options)
    return Prediction(score(window, classifier), window)


def window_of_frames(handled: Sequence[Handled], options: Options) -> Window:
    """Handled frames resampled to the rate of training, and their people cleaned."""
    window = resample(handled, float(options.frames.per_second()))
    window.people = complete_people(window.people, window, 1, options.cleaning)
    return window


def persons_in(handled: Sequence[Handled], classifier: Classifier) -> tuple[Persons, list[int]]:
    """Test the streams on each person of handled frames alone, and say which tracks these are.

    A person is seen for a quarter of the frames at least, from the first to the last.
    """
    options, rate = classifier.options, classifier.options.frames.per_second()
    whole = resample(handled, float(rate))
    people = {number: frame.people for number, frame in enumerate(handled, 1)}
    keypoints = join_frames(people, len(handled), whole.frame_size)
    tracks = np.concatenate([frame.tracks for frame in handled])
    chosen, notes = choose_tracks(keypoints, tracks, round(LEAST_SHARE * len(handled)))
    paths, windows = paths_of(keypoints, tracks), {}
    moments = [1 + round((frame.time - handled[0].time) * float(rate)) for frame in handled]
    for track in chosen:
        frames = range(min(paths[track]), max(paths[track]) + 1)
        alone = window_of(paths, track, frames, keypoints.frame_size, options.per_person).people.values()
        own = [handled[frame - 1]._replace(people=shown) for frame, shown in zip(frames, alone, strict=True)]
        window, start = window_of_frames(own, options), moments[frames[0] - 1] - 1
        if not window.nobody:  # the cleaning may leave nothing of a person
            windows[track] = [((start, start + window.num_frames), window)]
    timed = {track: {moments[frame - 1]: person for frame, person in path.items()} for track, path in paths.items()}
    others = select_people(keypoints, np.isin(tracks, list(windows), invert=True))
    return Persons(whole, classify_windows_of(windows, timed, classifier, rate), others, notes), list(windows)


class Seen(NamedTuple):
    """What a window shows: a result of `describe` or `describe_persons`, and how the machine keeps up."""

    result: dict
    time: float  # of its newest frame, by time.monotonic
    seconds: float  # from the first frame of all to that
    frames: int  # handled ones in the window
    fps: float  # of those
    handled: int  # of the frames that had been `captured` then
    captured: int
    latency: float = 0.0  # seconds from its newest frame to this answer

    @property
    def people(self) -> float | None:
        """Share of its frames that show people; None if nobody was looked for."""
        looked_at = self.result["frames_looked_at"]
        return self.result["frames_with_people"] / looked_at if looked_at else None

    @property
    def pace(self) -> str:
        """How the machine keeps up, and in how much of the window people were found, if they were looked for."""
        people = "" if self.people is None else f"  people {100 * self.people:.0f} %"
        return f"{self.fps:4.1f} fps  latency {self.latency:.1f} s{people}"


class Watcher:
    """The last seconds of frames, scored as the `plan` says, or as often as the machine can, in a thread of its own.

    The window is shorter at the start, and starts anew when the source was lost or its frames change size.
    """

    def __init__(self, classifier: Classifier, plan: Plan):
        self.classifier, self.plan = classifier, plan
        self.longest = max(plan.length - 1 / float(classifier.options.frames.per_second()), 0)
        self.recent: deque[Handled] = deque()
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future | None = None
        self.kind: tuple = ()  # what the frames of a window share
        self.follower = Follower((1, 1), MAX_GAP)  # of people, if each gets an answer
        self.numbers: dict[int, int] = {}  # of those who got one, by their track
        self.labels: dict[int, str] = {}  # of those who have one now
        self.begin: float | None = None  # time of the first frame of all
        self.scored: float | None = None  # time of the newest frame of the last window
        self.due, self.handled, self.captured = 0.0, 0, 0

    def see(self, captured: Captured) -> None:
        """Look at a frame, and score the window if that is due and none is being scored."""
        frame, recent = handle(captured, self.classifier), self.recent
        kind = captured.connection, frame.picture.shape
        if kind != self.kind:
            recent.clear()
            self.kind, self.due = kind, frame.time + self.plan.stride
            self.follower.frame_size = frame.picture.shape[:2]
        if self.classifier.options.per_person:
            frame = frame._replace(tracks=self.follower.follow(self.handled, frame.people))
        recent.append(frame)
        while recent[0].time < frame.time - self.longest:
            recent.popleft()
        self.begin = frame.time if self.begin is None else self.begin
        self.handled, self.captured = self.handled + 1, captured.number
        if frame.time >= self.due and not self.pending:
            self.score()

    def score(self) -> None:
        """Start scoring the window."""
        frames = tuple(self.recent)
        first, last = frames[0].time, frames[-1].time
        rate = (len(frames) - 1) / (last - first) if last > first else 0.0
        facts = (last, last - self.begin, len(frames), rate, self.handled, self.captured)
        self.scored, self.due = last, max(self.due + self.plan.stride, last)
        self.pending = self.pool.submit(lambda: Seen(self.result_of(frames), *facts))

    def result_of(self, frames: Sequence[Handled]) -> dict:
        """The `describe`d window, or `describe_persons` with numbers that stay with the people."""
        if not self.classifier.options.per_person:
            return describe(classify_window(frames, self.classifier), self.classifier.fusion)
        persons, tracks = persons_in(frames, self.classifier)
        result, labels = describe_persons(persons, self.classifier.fusion), {}
        for track, person in zip(tracks, result["persons"], strict=True):
            person["person"] = self.numbers.setdefault(track, len(self.numbers) + 1)
            ((_, probability),) = top_classes(person["fused"], 1)
            labels[track] = label_of(person["answer"] or NONE, probability)
        self.labels = labels
        result["persons"].sort(key=itemgetter("person"))
        return result

    @property
    def heads(self) -> list[Head]:
        """The people of the newest frame with their numbers and answers."""
        frame, labels = self.recent[-1], self.labels
        return [
            Head(person, self.numbers[track], labels[track]) if track in labels else Head(person)
            for person, track in zip(frame.people, frame.tracks.tolist(), strict=True)
        ]

    def news(self, wait: bool = False) -> Seen | None:
        """What was scored since this was asked last."""
        if not self.pending or not (wait or self.pending.done()):
            return None
        pending, self.pending = self.pending, None
        seen = pending.result()
        return seen._replace(latency=time.monotonic() - seen.time)


def watch(
    frames: Iterable[Captured | None], classifier: Classifier, plan: Plan, stop: StopRequest
) -> Generator[Seen, None, None]:
    """Score the last seconds of frames until they end or `stop` is requested.

    What is being scored then comes last, and at the end of the frames a window of the last ones.
    """
    watcher = Watcher(classifier, plan)
    with watcher.pool:
        for frame in frames:
            if seen := watcher.news():
                yield seen
            if stop.signum:
                break
            if frame:
                watcher.see(frame)
        if seen := watcher.news(wait=True):
            yield seen
        if not stop.signum and watcher.recent and watcher.recent[-1].time != watcher.scored:
            watcher.score()
            yield watcher.news(wait=True)


# ---- what is told ----


def run_live(source: str, classifier: Classifier, plan: Plan, topk: int, table: Path | None) -> None:
    """Print what is seen until the source ends, or SIGINT or SIGTERM comes; `table` gets a row per answer."""
    latencies = []
    classifier = classifier._replace(options=replace(classifier.options, clips=CLIPS))
    with contextlib.ExitStack() as opened:
        stop = opened.enter_context(catch_stop_signals())
        columns = [*COLUMNS, *(BOX_COLUMNS if classifier.options.per_person else ()), *classifier.fusion.classes]
        write = opened.enter_context(open_table(table, columns)) if table else None
        frames = opened.enter_context(closing(newest_frames(source)))
        for seen in watch(frames, classifier, plan, stop):
            latencies.append(seen.latency)
            print(line_of(seen, topk), flush=True)
            if write:
                write(rows_of(seen))
    if not latencies:
        print("ended before anything could be classified")
        return
    skipped = 100 * (1 - seen.handled / seen.captured)
    print(
        f"{seen.seconds:.1f} s, {seen.captured} frames, {seen.handled} handled "
        f"({skipped:.0f} % skipped), {len(latencies)} times classified, "
        f"latency {np.mean(latencies):.2f} s on average, {max(latencies):.2f} s at most"
    )


def line_of(seen: Seen, topk: int) -> str:
    """How the machine keeps up, the best classes in percent or everyone's answer, and reasons to doubt them."""
    if "persons" in seen.result:
        best = [" ".join((str(person["person"]), *words_of(person))) for person in seen.result["persons"]]
    else:
        best = [f"{name} {100 * value:.1f}" for name, value in top_classes(seen.result["fused"], topk)]
    return f"{seen.seconds:6.1f} s  {seen.pace}  {' | '.join(filter(None, [', '.join(best), *seen.result['notes']]))}"


@contextlib.contextmanager
def open_table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[list[dict]], object]]:
    """Yield what appends rows, at once and whole, to the CSV `path`, which may hold some already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", buffering=1, encoding="utf-8", errors="replace", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
        if header not in (None, list(columns)):
            raise UserError(f"--csv {path}: is there and has other columns; remove it or give another name")
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if header is None:
            writer.writeheader()
        yield writer.writerows


def rows_of(seen: Seen) -> list[dict]:
    """A window's row in the table, or one for each person.

    Clock time of its newest frame, …, the person and the box, the fused probability of every class.
    """
    captured = datetime.fromtimestamp(time.time() - seen.latency).astimezone()
    row: dict[str, Any] = {"time": captured.isoformat(timespec="milliseconds"), "seconds": f"{seen.seconds:.3f}"}
    row |= {"frames": seen.frames, "fps": f"{seen.fps:.3f}", "latency": f"{seen.latency:.3f}"}
    row["people"] = "" if seen.people is None else f"{seen.people:.3f}"
    if "persons" not in seen.result:
        return [row | _answer(seen.result)]
    boxes = [dict(zip(BOX_COLUMNS, (each["person"], *each["box"]), strict=True)) for each in seen.result["persons"]]
    return [row | box | _answer(each) for box, each in zip(boxes, seen.result["persons"], strict=True)]


def _answer(result: dict) -> dict:
    probabilities = {name: f"{value:.6f}" for name, value in result["fused"]["probabilities"].items()}
    if not probabilities:
        return {"class": NOBODY_IN_VIEW}
    return {"class": result["answer"] or NONE, "probability": max(probabilities.values())} | probabilities
