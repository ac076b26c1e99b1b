"""Work in several processes and on several machines, on all videos, and what is told of it."""

import argparse
import contextlib
import functools
import gc
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.atomic import atomic_folder, atomic_write, recover_folders, temporary_name
from common.cli import UserError, print_first
from common.frames import FRAME_PATTERN, count_frames
from common.records import RECORD, check_made, read_record, write_record

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
    others = set(multiprocessing.active_children())
    gc.collect()  # a forked process would wait for ever in destroying garbage whose threads it does not have
    pool = ProcessPoolExecutor(min(workers, len(jobs)), initializer=_end_with_parent)
    try:
        futures = {pool.submit(_attempt, function, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], *future.result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed, out of memory perhaps; try fewer --workers") from None
    except BaseException:  # GeneratorExit as well
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
    parts: Sequence[str],
    work: Callable[[Path, list[Path]], dict],
    out: Path,
    made: dict,
    args: argparse.Namespace,
) -> int:
    """Make the images of `videos`, by name, that are missing in `out`, and report; 1 if some are broken, else 0.

    A video's folders are `out/PART/NAME` for each of `parts`. `work(video, folders)` writes its images and returns
    their record; `made` is what the records of all videos say. `args` has `workers` and `shard`.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is no folder; give the one that the images go to")
    check_made(out, made)
    videos = {name: path for name, path in videos.items() if in_shard(name, args.shard)}
    for parent in {(out / part / name).parent for name in videos for part in ("", *parts)}:
        recover_folders(parent)
    damaged, broken, todo = {}, {}, []
    for name, path in videos.items():
        try:
            damage = _noted_damage(path, [out / part / name for part in parts], made)
            if damage is None:
                todo.append((name, path))
            elif damage:
                damaged[name] = damage
        except UserError as error:
            broken[name] = error
    images, refused, start, scratch = 0, len(broken), time.perf_counter(), temporary_name(out / "scratch")
    make = functools.partial(_make, parts=parts, work=work, out=out, scratch=scratch)
    try:
        with contextlib.closing(run_parallel(make, todo, args.workers)) as results:
            for (name, _), record, error in tqdm(results, "videos", len(todo), disable=None):
                if isinstance(error, OSError):
                    raise error
                if error:
                    broken[name] = error
                    continue
                images += record["count"]
                if record["damage"]:
                    damaged[name] = record["damage"]
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


def _noted_damage(video: Path, folders: list[Path], made: dict) -> str | None:
    """Damage of a video that its finished folders tell of ("": none); None if they are to be made (again).

    Refuses images that are known to be made otherwise, and a folder with gaps that holds more than our own images.
    """
    records = {folder: read_record(folder) for folder in folders if folder.exists()}
    for folder, record in records.items():
        check_made(folder, made, record)
    with contextlib.suppress(UserError):  # a folder is not there, or has gaps
        counts = {count_frames(folder) for folder in folders}
        counts |= {record["count"] for record in records.values() if "count" in record}
        counts |= {count_frames(video)} if video.is_dir() else set()
        if len(counts) == 1 and 0 not in counts:
            return records[folders[0]].get("damage", "")
    for folder, record in records.items():
        files = os.listdir(folder) if folder.is_dir() else [folder.name]
        if files and not (record and all(name == RECORD or FRAME_PATTERN.fullmatch(name) for name in files)):
            raise UserError(f"{folder} is in the way: frames are missing, and it holds other things; remove it")
    return None


def _make(job: tuple[str, Path], parts: Sequence[str], work: Callable, out: Path, scratch: Path) -> dict:
    """Write the folders of a video, which appear when all are written, the first one last; returns their record."""
    name, path = job
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(atomic_folder(out / part / name, scratch / part / name)) for part in parts]
        record = work(path, folders)
        for folder in folders:
            write_record(folder, record)
    return record


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
