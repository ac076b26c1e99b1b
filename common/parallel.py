"""Work in several processes and on several machines."""

import contextlib
import gc
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from common.cli import UserError


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
