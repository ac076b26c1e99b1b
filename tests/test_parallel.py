"""Jobs in several processes: their results, their failures, and how they end."""

import contextlib
import gc
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from common.cli import UserError
from common.parallel import run_parallel


def work(job: int, folder: Path | None = None) -> int:
    """Square the job; those above 90 fail, one way or another."""
    if job == 91:
        raise UserError("91 is broken")
    if job == 92:
        raise FileNotFoundError(2, "No such file", "92")
    if job == 93:
        raise ValueError("a bug")
    if job == 94:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 95:
        (folder / str(os.getpid())).touch()
        time.sleep(60)
    return job * job


@pytest.mark.parametrize("workers", [0, 3])
def test_every_job_comes_once_with_its_result_or_its_error(workers):
    found = {job: (result, error) for job, result, error in run_parallel(work, [*range(40), 91, 92], workers)}
    assert [found[job] for job in range(40)] == [(job * job, None) for job in range(40)]
    assert str(found[91][1]) == "91 is broken" and found[92][1].filename == "92" and len(found) == 42
    with pytest.raises(ValueError, match="a bug"):
        list(run_parallel(work, [1, 2, 93], workers))


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="fewer --workers"):
        list(run_parallel(work, [1, 94, 2, 3], 2))


def test_closing_ends_running_jobs_at_once(tmp_path):
    start = time.monotonic()
    with contextlib.closing(run_parallel(partial(work, folder=tmp_path), [1, 95, 95, 95, 2], 2)) as results:
        next(results)
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
    assert time.monotonic() - start < 30
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


class Session:
    """Lies in a cycle, as a network's session in its closures, and notes which process destroys it."""

    def __init__(self, folder: Path):
        self.folder, self.itself = folder, self

    def __del__(self):
        (self.folder / str(os.getpid())).touch()


def collect(job: int) -> int:
    gc.collect()
    return job


def test_what_is_garbage_here_is_not_destroyed_in_the_workers(tmp_path):
    """A session's destructor waits for its threads, which a forked process does not have."""
    gc.disable()
    try:
        Session(tmp_path)
        assert len(list(run_parallel(collect, range(4), 2))) == 4
    finally:
        gc.enable()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]
