"""What the scripts that make images of videos share: the work on all videos, and what is told of it."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.parallel import run_parallel


@dataclass
class Report:
    """What became of videos: `damaged` and `broken` map their paths to what is wrong, `made` counts `images`."""

    made: int = 0
    images: int = 0
    seconds: float = 0.0
    damaged: dict[Path, str] = field(default_factory=dict)
    broken: dict[Path, Exception] = field(default_factory=dict)

    def show(self, videos: int, verb: str, shard: str | None) -> int:
        """Print a line for each damaged or broken one of the `videos` and one for all; returns the exit status."""
        for word, problems in (("kept", self.damaged), ("skipped", self.broken)):
            for path in sorted(problems):
                print(f"{word}: {path}: {problems[path]}", file=sys.stderr)
        print(
            f"{videos} videos{f' of shard {shard}' if shard else ''}: {self.made} {verb} ({self.images} frames, "
            f"{self.images / max(self.seconds, 1e-9):.0f} a second), {videos - self.made - len(self.broken)} were "
            f"there, {len(self.damaged)} damaged, {len(self.broken)} broken"
        )
        return 1 if self.broken else 0


def make_images(
    work: Callable, jobs: Sequence[tuple], workers: int, report: Report, on_made: Callable[[], None]
) -> None:
    """Do every job, (path of the video, …, temporary folder), in `workers` processes, and note it in the `report`.

    `work(job)` returns the number of images and what is damaged (""). `on_made` is called after each. What is left in
    temporary folders is removed in the end. Raises `OSError` where the disk fails.
    """
    start = time.perf_counter()
    try:
        with contextlib.closing(run_parallel(work, jobs, workers)) as results:
            for (path, *_), result, error in tqdm(results, "videos", len(jobs), disable=None):
                if isinstance(error, OSError):
                    raise error
                if error:
                    report.broken[path] = error
                    continue
                on_made()
                report.made += 1
                report.images += result[0]
                if result[1]:
                    report.damaged[path] = result[1]
    finally:
        for *_, temporary in jobs:  # of processes that were ended
            shutil.rmtree(temporary, ignore_errors=True)
    report.seconds = time.perf_counter() - start
