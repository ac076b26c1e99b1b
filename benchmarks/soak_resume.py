"""Kill the training scripts at random moments, resume them, and compare with a run that was left alone.

    python -m benchmarks.soak_resume --kills 30

Each stream trains once undisturbed on a tiny data set. Then it trains again and gets SIGKILL at random moments;
every other kill waits for a temporary file in the record folder, so that it falls into the writing of a record,
the scores, the best model or the checkpoint. After each kill the run resumes from its checkpoint with another
number of workers. When it gets to its end, weights, optimiser, scheduler, best model, records (without their
times) and scores must be those of the undisturbed run, bit for bit; then it starts anew until the kills are
done. Takes minutes; pytest does not collect it.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from tests.helpers import FAST, STREAMS, make_tiny
from utils import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 12


def start(stream: str, data: Path, record: Path, workers: int, *more: str) -> subprocess.Popen:
    """Start a stream's script on the tiny data, in one thread, so that sums have one order."""
    script, folder, _ = STREAMS[stream]
    command = [sys.executable, ROOT / script, "--data", data / folder, "--ucf-list", data / "lists", "--record", record]
    command += [*FAST, "--workers", workers, "--epochs", EPOCHS, *more]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill_at_random(process: subprocess.Popen, record: Path, generator: random.Random, in_a_write: bool) -> str | None:
    """Kill the process some seconds from now; returns in what, or None if it ended before."""
    time.sleep(generator.uniform(2, 6))
    least = generator.choice((0, 0, 1e6, 6e7))  # any file, or one of the two checkpoints, begun or nearly done
    while in_a_write and process.poll() is None and largest_temporary(record) < least:
        time.sleep(0.001)
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    return "a write" if largest_temporary(record) >= 0 else "the rest"


def largest_temporary(record: Path) -> int:
    """Bytes of the largest file that is being written, -1 if there is none."""
    sizes = [-1]
    for path in record.glob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def state_of(stream: str, record: Path) -> dict:
    """All that a run leaves but times: tensors, numbers and bytes by name."""
    state = {}
    for name in ("checkpoint.pth.tar", "model_best.pth.tar"):
        state |= flatten(load_checkpoint(record / name), name)
    for part in ("train", "test"):
        table = pd.read_csv(record / f"{STREAMS[stream][2]}_{part}.csv", dtype=str)
        state[part] = table.drop(columns=["Batch Time", "Data Time"], errors="ignore").to_csv()
    state["scores"] = (record / f"{stream}_video_preds.pickle").read_bytes()
    return state


def flatten(value: object, name: str) -> dict:
    """Leaves of nested dicts and lists by their path."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for k, v in items for key, leaf in flatten(v, f"{name}/{k}").items()}
    return {name: value}


def differences(found: dict, expected: dict) -> list[str]:
    """Names of entries that are not the same, bit for bit."""

    def same(a: object, b: object):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return sorted(
        k
        for k in found.keys() | expected.keys()
        if k not in found or k not in expected or not same(found[k], expected[k])
    )


def soak(stream: str, data: Path, root: Path, kills: int, generator: random.Random) -> int:
    """Kill and resume one stream's script; returns the number of finished runs that differ."""
    undisturbed = start(stream, data, root / "undisturbed", 0)
    _, err = undisturbed.communicate()
    if undisturbed.returncode:
        raise SystemExit(err)
    expected = state_of(stream, root / "undisturbed")
    done, runs, wrong, places = 0, 0, 0, {"a write": 0, "the rest": 0}
    while done < kills or runs == 0:
        record = root / "disturbed"
        shutil.rmtree(record, ignore_errors=True)
        while True:
            for left in record.glob(".tmp-*"):  # a run removes them a day later
                left.unlink()
            checkpoint = record / "checkpoint.pth.tar"
            resume = ("--resume", checkpoint) if checkpoint.exists() else ()
            process = start(stream, data, record, generator.choice((0, 1, 2)), *resume)
            place = kill_at_random(process, record, generator, done % 2 == 0) if done < kills else None
            if place is None:
                _, err = process.communicate()
                if process.returncode:
                    raise SystemExit(f"{stream}: a resumed run ended with {process.returncode}: {err}")
                break
            done, places[place] = done + 1, places[place] + 1
            print(f"{stream}: {done} kills, in {places}", flush=True)
        runs += 1
        differing = differences(state_of(stream, record), expected)
        wrong += bool(differing)
        print(f"{stream}: run {runs} after {done} kills: {differing[:5] or 'equal, bit for bit'}", flush=True)
    return wrong


def main() -> int:
    """Soak the streams that are asked for; status 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs for each stream")
    parser.add_argument("--stream", choices=(*STREAMS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        data = make_tiny(Path(folder) / "data")
        for stream in STREAMS if args.stream == "both" else (args.stream,):
            root = Path(folder) / stream
            wrong += soak(stream, data, root, args.kills, random.Random(args.seed))
    print(f"{wrong} finished runs differ from the undisturbed ones")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
