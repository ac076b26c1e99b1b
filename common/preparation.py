"""What the scripts that make images of videos share: the work on all videos, and what is told of it."""

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import print_first
from common.parallel import run_parallel

PRINTED = 5  # lines about videos


@dataclass
class Report:
    """What became of videos: `damaged` and `broken` map their paths to what is wrong, `made` counts `images`."""

    made: int = 0
    images: int = 0
    seconds: float = 0.0
    damaged: dict[Path, str] = field(default_factory=dict)
    broken: dict[Path, Exception] = field(default_factory=dict)

    def show(self, videos: int, verb: str, out: Path, shard: str | None) -> int:
        """Print lines of damaged and broken ones of the `videos` and one for all; returns the exit status.

        Where there are many lines, all are written to a file in the folder `out`, see `print_problems`.
        """
        for word, problems in (("skipped", self.broken), ("kept", self.damaged)):
            lines = [f"{word}: {path}: {problems[path]}" for path in sorted(problems)]
            print_problems(lines, problems_path(out, word, shard))
        print(
            f"{videos} videos{f' of shard {shard}' if shard else ''}: {self.made} {verb} ({self.images} frames, "
            f"{self.images / max(self.seconds, 1e-9):.0f} a second), {videos - self.made - len(self.broken)} were "
            f"there, {len(self.damaged)} damaged, {len(self.broken)} broken"
        )
        return 1 if self.broken else 0


def problems_path(out: Path, word: str, shard: str | None) -> Path:
    """Where a run into the folder `out` writes all lines about the videos that it `skipped`, `kept` or `failed` on."""
    part = f"-{shard.replace('/', '-of-')}" if shard else ""
    return out / f"{word}{part}.txt"


def print_problems(lines: Sequence[str], path: Path) -> None:
    """Print the first lines on stderr; if there are more, all go to the file `path`, else it is removed.

    So the file is never that of an earlier run.
    """
    lines = [" ".join(line.split()) for line in lines]
    if len(lines) > PRINTED:
        with atomic_write(path) as file:
            file.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    else:
        path.unlink(missing_ok=True)
    print_first(lines, f"all in {path}", PRINTED)


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
