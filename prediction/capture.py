"""The newest frame of a camera, a network stream, or a video file that is played at its own speed."""

import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from common.cli import UserError
from common.video import in_order, open_video, read_frames, to_rgb, video_stream

SILENCE = 8.0  # seconds without a frame, or without an answer, after which a source counts as lost
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before the first, second, … attempt to get it back, then always the last
Picture = Callable[[], np.ndarray]  # converts a decoded frame to uint8 RGB (H, W, 3): only of those that are handled


class Captured(NamedTuple):
    """A frame: when it came, in seconds of the clock; its picture; and which connection to the source it is of."""

    time: float
    picture: Picture
    connection: int


Opener = Callable[[str], Generator[Picture, None, None]]

# ---- sources ----


def read_source(source: str) -> Generator[Picture, None, None]:
    """The frames of a camera ("0", "/dev/video0"), an address or a file, each when it comes.

    What has a length (files, also behind an address) and HLS, which comes in pieces, are played at their own speed.
    Ends where a file ends; raises `UserError` with the reason if the source cannot be read, or no longer.
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
    except av.FFmpegError as error:
        raise UserError(error.strerror) from None
    except ValueError as error:  # PyAV, of a format that it was built without
        raise UserError(str(error)) from None
    if not has_end:
        raise UserError("the stream ended")


# ---- the newest frame ----


def print_notice(line: str) -> None:
    """Print a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


class _Connection:
    """A thread that reads a source and keeps the newest frame only."""

    def __init__(self, opener: Opener, source: str, number: int):
        self.opener, self.source, self.number = opener, source, number
        self.changed = threading.Condition()
        self.frame: Captured | None = None
        self.count, self.since = 0, time.monotonic()
        self.stopped, self.done = False, False
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)  # a driver may block it for ever
        self.thread.start()

    def _read(self) -> None:
        error = None
        try:
            with closing(self.opener(self.source)) as pictures:
                for picture in pictures:
                    with self.changed:
                        self.since, self.count = time.monotonic(), self.count + 1
                        self.frame = Captured(self.since, picture, self.number)
                        self.changed.notify()
                    if self.stopped:
                        return
        except Exception as problem:
            error = problem
        with self.changed:
            self.error, self.done = error, True
            self.changed.notify()

    def take(self, wait: float) -> tuple[Captured | None, bool]:
        """The frame that came since the last call, or within `wait` seconds, and whether none can come any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.frame or self.done, wait)
            frame, self.frame = self.frame, None
            return frame, self.done and not frame


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
        self.connections = self.attempts = self.before = 0
        self.ended = False
        self.again: float | None = None  # when a lost source is to be tried again
        self._connect()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.stopped = True
        self.connection.thread.join(1)

    @property
    def count(self) -> int:
        """Number of frames that came."""
        return self.before + self.connection.count

    def newest(self, wait: float = 0.1) -> Captured | None:
        """The newest frame that was not given yet, waited for up to `wait` seconds; None: there is none.

        Raises `UserError` if the source cannot be read at all.
        """
        if self.again is not None:
            time.sleep(min(wait, max(self.again - time.monotonic(), 0)))
            if time.monotonic() < self.again:
                return None
            self._connect()
        frame, done = self.connection.take(wait)
        if frame:
            if self.attempts:
                self.report(f"{self.name}: frames come again")
                self.attempts = 0
        elif done and not self.connection.error:
            self.ended = True
            if not self.count:
                raise UserError(f"--live {self.name}: no frame of it can be decoded")
        elif done:
            self._lose(self.connection.error)
        elif time.monotonic() - self.connection.since > self.silence:
            self._lose(UserError(f"no frame for {self.silence:g} s"))
        return frame

    def _connect(self) -> None:
        self.before = self.count if self.connections else 0
        self.connections += 1
        self.again, self.connection = None, _Connection(self.opener, self.source, self.connections)

    def _lose(self, error: Exception) -> None:
        self.connection.stopped = True
        if not isinstance(error, UserError | OSError):
            raise error
        if not self.count:
            kinds = "give a camera that is free (0, /dev/video0), an address that answers, or a video file"
            raise UserError(f"--live {self.name}: {error}; {kinds}") from None
        pause = self.pauses[min(self.attempts, len(self.pauses) - 1)]
        self.attempts += 1
        self.report(f"{self.name}: lost ({error}); tried again in {pause:g} s")
        self.again = time.monotonic() + pause
