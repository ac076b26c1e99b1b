"""Classify what a camera shows, as it shows it: the newest frames are searched for people, a sliding window scored.

Frames that come while the pose network works are skipped, never queued. One thread reads the source, the caller's
finds people, and a third one scores windows, so that frames are handled while the streams work.
"""

import contextlib
import csv
import queue
import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from common.cli import UserError
from common.video import in_order, open_video, read_frames, resize_short_side, through_jpeg, to_rgb, video_stream
from pose.estimators import Estimator
from pose.pipeline import fill_in
from prediction.classify import NOBODY_IN_VIEW, Classifier, Prediction, complete_people, describe, score, top_classes
from prediction.timeline import Plan
from training.streams import STREAMS, Window
from utils import StopRequest, catch_stop_signals

SILENCE = 8.0  # seconds without a frame, or without an answer, after which a source counts as lost
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before the first, second, … attempt to get it back, then always the last
BROWSER_SILENCE = 5.0  # seconds without a frame after which a browser's camera counts as switched off
# Positions that a window is tested at: windows of 4 seconds, one every second, still vote over 20 of each 4 seconds.
CLIPS = 5
COLUMNS = ("time", "seconds", "frames", "fps", "people", "latency", "class", "probability")  # of the table
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
    """A frame: when it came, in seconds of the clock; its picture; and which connection to the source it is of."""

    time: float
    picture: Picture
    connection: int


def print_notice(line: str) -> None:
    """Print a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


class Capture:
    """The newest frame of a source that is tried again, with growing pauses, when it is lost.

    It is lost if its stream ends, breaks, or gives no frame for `silence` seconds; a file ends for good. `count` is the
    number of frames that came, handled or not. `opener(source)` yields its pictures, see `read_source`; `report` gets a
    line about each loss and return.
    """

    def __init__(
        self,
        source: str,
        opener: Opener = read_source,
        report: Callable[[str], object] = print_notice,
        silence: float = SILENCE,
        pauses: tuple[float, ...] = PAUSES,
    ):
        self.source, self.opener, self.report, self.silence, self.pauses = source, opener, report, silence, pauses
        self.name = re.sub("//[^/]*@", "//", source)  # without the password of a camera
        self.connections = self.attempts = self.count = 0
        self.ended, self.changed = False, threading.Condition()
        self.again: float | None = None  # when a lost source is to be tried again
        self._connect()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *error: object) -> None:
        self.connections += 1
        self.thread.join(1)

    def _connect(self) -> None:
        self.connections += 1
        self.frame: Captured | None = None
        self.error: Exception | None = None
        self.since, self.again, self.done = time.monotonic(), None, False
        # A driver may block the thread for ever; it ends with the first frame that comes after the next connection.
        self.thread = threading.Thread(target=self._read, args=(self.connections,), daemon=True)
        self.thread.start()

    def newest(self, wait: float = 0.1) -> Captured | None:
        """The newest frame that was not given yet, waited for up to `wait` seconds; None: there is none."""
        if self.again is not None:
            time.sleep(min(wait, max(self.again - time.monotonic(), 0)))
            if time.monotonic() < self.again:
                return None
            self._connect()
        with self.changed:
            self.changed.wait_for(lambda: self.frame or self.done, wait)
            frame, self.frame = self.frame, None
        if frame:
            if self.attempts:
                self.report(f"{self.name}: frames come again")
                self.attempts = 0
        elif self.done and not self.error:
            self.ended = True
            if not self.count:
                raise UserError(f"--live {self.name}: no frame of it can be decoded")
        elif self.done:
            self._lose(self.error)
        elif time.monotonic() - self.since > self.silence:
            self._lose(UserError(f"no frame for {self.silence:g} s"))
        return frame

    def _read(self, connection: int) -> None:
        error = None
        try:
            with closing(self.opener(self.source)) as pictures:
                for picture in pictures:
                    with self.changed:
                        if connection != self.connections:
                            return
                        self.since, self.count = time.monotonic(), self.count + 1
                        self.frame = Captured(self.since, picture, connection)
                        self.changed.notify()
        except Exception as problem:
            error = problem
        with self.changed:
            if connection == self.connections:
                self.error, self.done = error, True
                self.changed.notify()

    def _lose(self, error: Exception) -> None:
        if not isinstance(error, UserError | OSError):
            raise error
        if not self.count:
            kinds = "give a camera that is free (0, /dev/video0), an address that answers, or a video file"
            raise UserError(f"--live {self.name}: {error}; {kinds}") from None
        pause = self.pauses[min(self.attempts, len(self.pauses) - 1)]
        self.attempts += 1
        self.report(f"{self.name}: lost ({error}); tried again in {pause:g} s")
        self.again = time.monotonic() + pause


# ---- frames and windows ----


class Handled(NamedTuple):
    """A frame that was looked at: its time, its picture as in training, its people (None: nobody was looked for)."""

    time: float
    picture: np.ndarray
    people: np.ndarray | None


def handle(frame: Captured, classifier: Classifier) -> Handled:
    """The frame as the streams were trained on it, and its people, found on that."""
    settings, estimator = classifier.options.frames, classifier.people
    rgb = through_jpeg(resize_short_side(frame.picture(), settings.short_side), settings.quality)
    return Handled(frame.time, rgb, estimator([rgb])[0] if isinstance(estimator, Estimator) else None)


def resample(handled: Sequence[Handled], rate: float) -> Window:
    """The window from the first to the last handled frame at `rate` frames a second.

    Each handled frame counts for the nearest moment, of several the nearest one; a moment without one gets the picture
    of the handled frame that is nearest, and people between those of the one before and after, as if these had been
    estimated and the others not (`fill_in`).
    """
    nearest: dict[int, Handled] = {}
    moments = [1 + (frame.time - handled[0].time) * rate for frame in handled]
    for moment, frame in sorted(zip(moments, handled, strict=True), key=lambda pair: -abs(pair[0] - round(pair[0]))):
        nearest[round(moment)] = frame  # the one that comes last is the nearest
    window = Window(max(nearest), frame_size=handled[0].picture.shape[:2])
    for number in range(1, window.num_frames + 1):
        owner = min(nearest, key=lambda known: (abs(known - number), known))
        window.pictures[number] = nearest[owner].picture
    if handled[0].people is not None:
        people = {number: frame.people for number, frame in nearest.items()}
        window.people = dict(enumerate(fill_in(people, window.frame_size), 1))
    return window


def classify_window(handled: Sequence[Handled], classifier: Classifier) -> Prediction:
    """Score handled frames, resampled to the rate of those that the streams were trained on."""
    options = classifier.options
    window = resample(handled, float(options.frames.per_second()))
    window.people = complete_people(window.people, window, 1, options.cleaning)
    return Prediction(score(window, classifier), window)


# ---- the loop ----


class Classified(NamedTuple):
    """What a window shows: a result of `describe`, and how the machine keeps up."""

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


def watch(capture: Capture, classifier: Classifier, plan: Plan, stop: StopRequest) -> Generator[Classified, None, None]:
    """Score the last seconds as the `plan` says, or as often as the machine can, until the source ends.

    The window is shorter at the start, and starts anew when the source was lost or its frames change size. What is
    being scored when the source ends or `stop` is requested comes last. Wrap it in `contextlib.closing`.
    """
    recent: deque[Handled] = deque()
    pending: Future | None = None
    handled = connection = 0
    first = due = last = None
    step = 1 / float(classifier.options.frames.per_second())

    def classify() -> Future:
        span = recent[-1].time - recent[0].time
        rate = (len(recent) - 1) / span if span else 0.0
        facts = (recent[-1].time, recent[-1].time - first, len(recent), rate, handled, capture.count)
        frames = tuple(recent)
        return pool.submit(lambda: Classified(describe(classify_window(frames, classifier), classifier.fusion), *facts))

    def answer(future: Future) -> Classified:
        seen = future.result()
        return seen._replace(latency=time.monotonic() - seen.time)

    with capture, ThreadPoolExecutor(1) as pool:
        while not (capture.ended or stop.signum):
            captured = capture.newest()
            if captured:
                frame = handle(captured, classifier)
                seen = (captured.connection, frame.picture.shape)
                if recent and seen != (connection, recent[-1].picture.shape):
                    recent.clear()
                if not recent:
                    connection, due = captured.connection, frame.time + plan.stride
                    first = frame.time if first is None else first
                handled += 1
                recent.append(frame)
                while recent[0].time < frame.time - max(plan.length - step, 0):
                    recent.popleft()
            if pending and pending.done():
                yield answer(pending)
                pending = None
            if recent and not pending and recent[-1].time >= due:
                pending, last = classify(), recent[-1].time
                due = max(due + plan.stride, last)
        if pending:
            yield answer(pending)
        if capture.ended and recent and recent[-1].time != last:
            yield answer(classify())


def run_live(source: str, classifier: Classifier, plan: Plan, topk: int, table: Path | None) -> None:
    """Print what is seen until the source ends, or SIGINT or SIGTERM comes; `table` gets a row per classification."""
    classes, latencies = classifier.fusion.classes, []
    classifier = classifier._replace(options=replace(classifier.options, clips=CLIPS))
    with catch_stop_signals() as stop, open_table(table, classes) if table else contextlib.nullcontext() as write:
        capture = Capture(source)
        with closing(watch(capture, classifier, plan, stop)) as watched:
            for seen in watched:
                latencies.append(seen.latency)
                print(describe_in_a_line(seen, topk), flush=True)
                if write:
                    write(table_row(seen, classes))
    if not latencies:
        print(f"{capture.name}: ended before anything could be classified")
        return
    skipped = 100 * (1 - seen.handled / seen.captured)
    print(
        f"{capture.name}: {seen.seconds:.1f} s, {seen.captured} frames, {seen.handled} handled "
        f"({skipped:.0f} % skipped), {len(latencies)} times classified, "
        f"latency {np.mean(latencies):.2f} s on average, {max(latencies):.2f} s at most"
    )


# ---- what is told ----


def describe_in_a_line(seen: Classified, topk: int) -> str:
    """The best classes in percent, the streams' own best, and how the machine keeps up."""
    result = seen.result
    best = ", ".join(f"{name} {100 * value:.1f}" for name, value in top_classes(result["fused"], topk))
    words = [NOBODY_IN_VIEW] * any(note.startswith(NOBODY_IN_VIEW) for note in result["notes"])
    words += ["none of these"] * bool(best and result["answer"] is None) + [best] * bool(best)
    streams = result["streams"] if len(result["streams"]) > 1 else {}
    own = [(stream, *top_classes(scores, 1)[0]) for stream, scores in streams.items()]
    told = ": ".join(words) + "".join(f" | {stream}: {name} {100 * value:.1f}" for stream, name, value in own)
    return f"{seen.seconds:6.1f} s  {describe_pace(seen)}  {told}"


def describe_pace(seen: Classified) -> str:
    """How the machine keeps up, and in how much of the window people were found, if they were looked for."""
    people = "" if seen.people is None else f"  people {100 * seen.people:.0f} %"
    return f"{seen.fps:4.1f} fps  latency {seen.latency:.1f} s{people}"


@contextlib.contextmanager
def open_table(path: Path, classes: Sequence[str]) -> Iterator[Callable[[Sequence], object]]:
    """Yield what appends a row, at once and whole, to the CSV `path`, which may hold some already."""
    columns = [*COLUMNS, *classes]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", buffering=1, encoding="utf-8", errors="replace", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file), columns)
        if header != columns:
            raise UserError(f"--csv {path}: is there and has other columns; remove it or give another name")
        file.seek(0, 2)
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(columns)
        yield writer.writerow


def table_row(seen: Classified, classes: Sequence[str]) -> list:
    """A window's values for the table: clock time of its newest frame, …, the fused probability of every class."""
    captured = datetime.fromtimestamp(time.time() - seen.latency).astimezone()
    share, probabilities = seen.people, seen.result["fused"]["probabilities"]
    row = [captured.isoformat(timespec="milliseconds"), f"{seen.seconds:.3f}", seen.frames, f"{seen.fps:.3f}"]
    row += ["" if share is None else f"{share:.3f}", f"{seen.latency:.3f}"]
    if not probabilities:
        return [*row, NOBODY_IN_VIEW, *[""] * (1 + len(classes))]
    values = [max(probabilities.values()), *(probabilities[name] for name in classes)]
    return [*row, seen.result["answer"] or "none", *(f"{value:.6f}" for value in values)]


# ---- the camera of a browser ----


class BrowserCamera:
    """One viewer's camera: `show` its frames as they come, `news` tells what was seen in the last seconds.

    Frames that come while one is handled are skipped. Its thread ends `BROWSER_SILENCE` seconds after the last frame,
    at `end`, or when `stop` is requested, which several viewers may share.
    """

    def __init__(self, classifier: Classifier, plan: Plan, stop: StopRequest):
        if not any(STREAMS[name].of_people for name in classifier.models):
            classifier = classifier._replace(people=None)  # who would be found for nothing
        self.frames: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self.seen: queue.SimpleQueue[Classified | UserError] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._watch, args=(classifier, plan, stop), daemon=True)
        self.thread.start()

    @property
    def ended(self) -> bool:
        """Whether its thread ended, so that frames need a new one."""
        return not self.thread.is_alive()

    def show(self, rgb: np.ndarray) -> None:
        """Take the newest frame, uint8 (H, W, 3)."""
        self.frames.put(rgb)

    def news(self) -> Classified | None:
        """What was seen last; None if it was told already. Raises the `UserError` that ended the thread."""
        last = None
        with contextlib.suppress(queue.Empty):
            while True:
                last = self.seen.get_nowait()
        if isinstance(last, UserError):
            raise last
        return last

    def end(self) -> None:
        """End its thread soon."""
        self.frames.put(None)

    def _pictures(self, source: str) -> Generator[Picture, None, None]:
        """The frames when they come; `Capture` keeps the newest one only."""
        with contextlib.suppress(queue.Empty):
            while (rgb := self.frames.get(timeout=BROWSER_SILENCE)) is not None:
                yield partial(np.asarray, rgb)

    def _watch(self, classifier: Classifier, plan: Plan, stop: StopRequest) -> None:
        try:
            with closing(watch(Capture("the browser's camera", self._pictures), classifier, plan, stop)) as watched:
                for seen in watched:
                    self.seen.put(seen)
        except UserError as error:
            self.seen.put(error)
