"""Work in several processes and on several machines, on all videos, and what is told of it."""

import argparse
import contextlib
import functools
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
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.atomic import atomic_write, temporary_name
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
    try:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
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
    except BrokenProcessPool:
        raise UserError("a worker process was killed, out of memory perhaps; try fewer --workers") from None


def _attempt(function: Callable, job: Any) -> tuple[Any, UserError | OSError | None]:
    try:
        return function(job), None
    except (UserError, OSError) as error:
        return None, error


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both reach the whole process group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a worker has one
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ---- images of videos ----


def make_all(
    videos: dict[str, Path],
    noted: Callable[[str], str | None],
    work: Callable[..., tuple[int, str]],
    out: Path,
    args: argparse.Namespace,
) -> int:
    """Make images of the `videos`, by name, in `args.workers` processes, and report; 1 if some are broken, else 0.

    `noted(name)` tells the damage of a video that is done ("": none), None if it is to be done. `work(name, scratch)`
    does one, with the help of a folder `scratch` in `out`; it returns the number of images and the damage.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is no folder; give the one that the images go to")
    damaged, broken, todo = {}, {}, []
    for name in videos:
        try:
            damage = noted(name)
            if damage is None:
                todo.append(name)
            elif damage:
                damaged[name] = damage
        except UserError as error:
            broken[name] = error
    images, refused, start, scratch = 0, len(broken), time.perf_counter(), temporary_name(out / "scratch")
    try:
        with contextlib.closing(run_parallel(functools.partial(work, scratch=scratch), todo, args.workers)) as results:
            for name, result, error in tqdm(results, "videos", len(todo), disable=None):
                if isinstance(error, OSError):
                    raise error
                if error:
                    broken[name] = error
                    continue
                images += result[0]
                if result[1]:
                    damaged[name] = result[1]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # also of processes that were ended
    for word, problems in (("skipped", broken), ("kept", damaged)):
        lines = [f"{word}: {videos[name]}: {problems[name]}" for name in sorted(problems)]
        print_problems(lines, out, word, args.shard)
    print(
        f"{len(videos)} videos{f' of shard {args.shard}' if args.shard else ''}: "
        f"{len(todo) - len(broken) + refused} done ({images} frames, {images / (time.perf_counter() - start):.0f} a "
        f"second), {len(videos) - len(todo) - refused} were there, {len(damaged)} damaged, {len(broken)} broken"
    )
    return 1 if broken else 0


def print_problems(lines: Sequence[str], out: Path, word: str, shard: str | None) -> None:
    """Print the first lines about videos that were "skipped", "kept" or "failed" on stderr.

    If there are more, all go to a file `word.txt` in `out`; if not, there is none, not even of an earlier run.
    """
    lines = [" ".join(line.split()) for line in lines]
    path = out / (word + (f"-{shard.replace('/', '-of-')}" if shard else "") + ".txt")
    if len(lines) > PRINTED:
        with atomic_write(path) as file:
            file.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    else:
        path.unlink(missing_ok=True)
    print_first(lines, f"all in {path}", PRINTED)
