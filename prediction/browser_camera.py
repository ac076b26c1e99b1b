"""What the camera of a browser shows, classified by `prediction.live.watch` while its frames come one by one."""

import contextlib
import queue
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from threading import Thread

import numpy as np

from common.cli import UserError
from prediction.capture import Capture, Picture
from prediction.live import watch
from prediction.live_output import Classified
from prediction.prepare import Classifier
from prediction.results import describe
from prediction.timeline import Plan
from training.streams import MOTION_POSE, SKELETON
from utils import StopRequest

PAUSE = 5.0  # seconds without a frame after which the camera counts as switched off


class BrowserCamera:
    """One viewer's camera: `show` its frames as they come, `news` tells what was seen in the last seconds.

    Frames that come while one is handled are skipped. Its thread ends `PAUSE` seconds after the last frame, at `end`,
    or when `stop` is requested, which several viewers may share.
    """

    def __init__(self, classifier: Classifier, plan: Plan, stop: StopRequest):
        self.frames: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self.seen: queue.SimpleQueue[tuple[Classified, dict, float] | UserError] = queue.SimpleQueue()
        self.thread = Thread(target=self._watch, args=(classifier, plan, stop), daemon=True)
        self.thread.start()

    @property
    def ended(self) -> bool:
        """Whether its thread ended, so that frames need a new one."""
        return not self.thread.is_alive()

    def show(self, rgb: np.ndarray) -> None:
        """Take the newest frame, uint8 (H, W, 3)."""
        self.frames.put(rgb)

    def news(self) -> tuple[Classified, dict, float] | None:
        """What was seen last, its `describe`d result and latency in seconds; None if it was told already.

        Raises the `UserError` that ended it.
        """
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
            while (rgb := self.frames.get(timeout=PAUSE)) is not None:
                yield partial(np.asarray, rgb)

    def _watch(self, classifier: Classifier, plan: Plan, stop: StopRequest) -> None:
        models, fusion, estimator, options = classifier
        if {MOTION_POSE.name, SKELETON.name}.isdisjoint(models):
            estimator = None  # people would be found for nothing
        try:
            capture = Capture("the browser's camera", self._pictures)
            with closing(watch(capture, models, estimator, options, *plan, stop)) as watched:
                for seen in watched:
                    result = describe(seen.prediction, fusion)
                    self.seen.put((seen, result, time.monotonic() - seen.time))
        except UserError as error:
            self.seen.put(error)
