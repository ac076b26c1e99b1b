"""Records, checkpoints, seeds, devices, and stopping in good order."""

import contextlib
import ctypes
import json
import os
import platform
import signal
import subprocess
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision

from common.atomic import atomic_write
from common.cli import UserError

# ---- checkpoints ----


def check_file(path: str | os.PathLike) -> None:
    """Raise `UserError` unless `path` is a file, as checkpoints and weights are."""
    path = Path(path)
    if path.name == "data.pkl" or any(path.glob("data.pkl")) or any(path.glob("*/data.pkl")):
        raise UserError(f"{path}: is an unpacked checkpoint; give the file as it was before, or download it again")
    if path.is_dir():
        inside = max(path.glob("*.pth*"), default=path / "model_best.pth.tar")
        raise UserError(f"{path}: is a folder; give a checkpoint or weights file, such as {inside}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an existing checkpoint or weights file")


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Load a dict saved by torch, onto the CPU, constructing nothing but tensors and plain values."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the file names
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files
        raise UserError(f"{path}: {_why_not_loaded(path, error)}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dict")
    return dict(content)


def _why_not_loaded(path: str | os.PathLike, error: Exception) -> str:
    """What a file is that torch cannot load."""
    with open(path, "rb") as file:
        start = file.read(99).lstrip()
    if start.startswith((b"<", b"version https://git-lfs")):
        return "is a web page or a pointer of Git LFS, no checkpoint; download it again"
    if start.startswith(b"\x1f\x8b") or tarfile.is_tarfile(path) or "not in a subdirectory" in str(error):
        return "is a packed archive; unpack it, and give the checkpoint in it"
    if "Unsupported" in str(error) or "eights" in str(error):
        return "is no checkpoint, or one with objects other than tensors and plain values, which are never loaded"
    return "is cut short, damaged, or no checkpoint; copy or download it again"


def load_safetensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file."""
    from safetensors.torch import load_file

    check_file(path)
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path}: cannot be loaded as safetensors: {error}") from None


def save_checkpoint(path: str | os.PathLike, checkpoint: dict) -> None:
    """Write a checkpoint whole or not at all; a full disk leaves the last good one in place."""
    with atomic_write(path) as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides a full disk behind an error of its own
                raise error.__context__ from None
            raise


# ---- records ----


def write_record(path: str | os.PathLike, row: dict) -> None:
    """Write `row` (column → value) as the record of its `Epoch`, in a CSV with one line per epoch.

    Lines of that epoch and later ones are dropped: they come from a run that was resumed before them.
    """
    table = pd.DataFrame([row]).astype(str)
    if Path(path).exists():
        before = pd.read_csv(path, dtype=str)
        table = pd.concat([before[before["Epoch"].astype(int) < row["Epoch"]], table])
    with atomic_write(path, "w") as file:
        table.to_csv(file, index=False)


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")


def environment(device: torch.device) -> dict:
    """Versions, git commit and device of a run, for its summary."""
    commit, here = None, str(Path(__file__).resolve().parent)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, np)}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": commit,
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
    }


# ---- devices, signals ----


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`; `auto` takes the first of cuda, mps, cpu.

    For the CPU it calls `keep_freed_memory`.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, found in available.items() if found)
    if not available[name]:
        raise UserError(f"--device {name}: there is no such device here; use --device auto or cpu")
    if name == "cpu":
        keep_freed_memory()
    # Machines that show each process its own devices alone show one.
    return torch.device(name, local_rank % torch.cuda.device_count()) if name == "cuda" else torch.device(name)


def keep_freed_memory() -> None:
    """Let the C library (glibc) keep the memory of tensors that are gone, for the next ones.

    It would give every large one back to Linux, which fills the next one's pages with zeros: a fifth of a training
    step and a third of the motion stream's test go there (benchmarks/README.md).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, or another C library
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_THRESHOLD: memory of its own for arrays of 1 GiB and more alone. Older versions refuse that; then the
        # next would only end their own way of learning the threshold.
        if mallopt(-3, 1 << 30):
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: return what is free beyond 2 GiB


def computes_in_half(device: torch.device) -> bool:
    """Whether mixed precision pays on the device: on CUDA, and on processors with bfloat16 (AVX512-BF16, AMX)."""
    if device.type != "cpu":
        return device.type == "cuda"
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # torch has no public way


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, the faster one for convolutions; not on mps, where torch has computed wrong results in it."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


class StopRequest:
    """Whether SIGINT or SIGTERM asked the run to stop; `signum` is 0 until then."""

    signum = 0


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that loops look at between batches.

    A second signal acts as it did before, so that an impatient user can break off at once.
    """
    request = StopRequest()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(signum: int, frame: object) -> None:
        request.signum = signum
        restore()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
