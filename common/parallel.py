"""Work in several processes and on several machines, on all videos, and what is told of it."""

import contextlib
import gc
import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError, print_first

PRINTED = 5  # lines about videos


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_shard(name: str, shard: str | None) -> bool:
    """Whether the video `name` belongs to the part `shard` (`i/n`; None: to all).

    A hash of the name decides, so the parts are disjoint and complete whatever other videos there are.
    """
    if shard is None:
        return True
    part, parts = map(int, shard.split("/"))
    key = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha1(key).digest()[:8], "big") % parts == part


def run_parallel(function: Callable, jobs: Iterable, workers: int) -> Generator[tuple, None, None]:
    """Yield `(job, result, error)` as each `function(job)` ends, in `workers` processes (0: in this one).

    A `UserError` or `OSError` of one job is yielded as `error`, other exceptions are raised. When the generator is
    closed, the processes end at once: wrap it in `contextlib.closing`.
    """
    jobs = list(jobs)
    if workers <= 0 or len(jobs) <= 1:
        for job in jobs:
            yield job, *_attempt(function, job)
        return
    workers = min(workers, len(jobs))
    others = set(multiprocessing.active_children())
    queue, running = iter(jobs), {}
    gc.collect()  # a forked process would wait for ever in destroying garbage whose threads it does not have
    with worker_pool(workers, start_method=None) as pool:
        try:
            while True:
                for job in itertools.islice(queue, 2 * workers - len(running)):
                    running[pool.submit(_attempt, function, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), *future.result()
        finally:
            if running:
                for process in set(multiprocessing.active_children()) - others:
                    process.kill()
                pool.shutdown(cancel_futures=True)


def _attempt(function: Callable, job: Any) -> tuple[Any, UserError | OSError | None]:
    try:
        return function(job), None
    except (UserError, OSError) as error:
        return None, error


@contextlib.contextmanager
def worker_pool(workers: int, start_method: str | None = "spawn") -> Iterator[Executor]:
    """A pool of processes that end with this one, even if it is killed; 0 workers: one thread of this process.

    They are started afresh, for torch's threads may be at work here. Raises `UserError` if one is killed.
    """
    if workers <= 0:
        with ThreadPoolExecutor(1) as pool:
            yield pool
        return
    context = multiprocessing.get_context(start_method)
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError("a worker process was killed, out of memory perhaps; try fewer --workers") from None


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both reach the whole process group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a worker has one
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ---- images of videos ----


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


def make_images(work: Callable, jobs: Sequence[tuple], workers: int, report: Report) -> None:
    """Do every job, (path of the video, …, temporary folder), in `workers` processes, and note it in the `report`.

    `work(job)` returns the number of images and what is damaged (""). What is left in temporary folders is removed in
    the end. Raises `OSError` where the disk fails.
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
                report.made += 1
                report.images += result[0]
                if result[1]:
                    report.damaged[path] = result[1]
    finally:
        for *_, temporary in jobs:  # of processes that were ended
            shutil.rmtree(temporary, ignore_errors=True)
    report.seconds = time.perf_counter() - start
