"""Networks in ONNX files, opened with ONNX Runtime."""

import os
import shutil
import sys
from typing import TYPE_CHECKING

from common.cli import UserError

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}

# Both packages fill the same folder: beside onnxruntime, the other one has no effect.
GPU_PACKAGE = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def find_provider(device: str) -> tuple[str, str]:
    """The device that `auto` stands for, and onnxruntime's provider; raises `UserError` if there is none."""
    available = available_providers()
    name = device if device != "auto" else "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[name] not in available:
        remedy = GPU_PACKAGE if name == "cuda" else "use another, or --device cpu"
        raise UserError(f"--device {name}: this onnxruntime has no {PROVIDERS[name]}; {remedy}")
    if device == "auto" and name == "cpu" and shutil.which("nvidia-smi"):
        print(f"poses are found on the CPU, not on the GPU: {GPU_PACKAGE}", file=sys.stderr)
    return name, PROVIDERS[name]


def check_provider(session: "onnxruntime.InferenceSession", name: str, device: str, path: str | os.PathLike) -> None:
    """Tell of a session for the device `name` that fell back to the CPU; `UserError` if `device` asked for it."""
    if PROVIDERS[name] not in session.get_providers():
        problem = f"{path}: onnxruntime cannot use {PROVIDERS[name]} (are CUDA and cuDNN of its version installed?)"
        if device != "auto":
            raise UserError(f"{problem}; repair that, or take --device cpu")
        print(f"{problem}; poses are found on the CPU", file=sys.stderr)


def available_providers() -> list[str]:
    """What this onnxruntime computes on; raises `UserError` if it is not installed."""
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        raise UserError("this model needs onnxruntime, which is not installed: pip install onnxruntime") from None
    return get_available_providers()


def open_session(path: str | os.PathLike, device: str, threads: int = 0) -> "onnxruntime.InferenceSession":
    """An `onnxruntime.InferenceSession` of a file on `device`, with so many processor threads (0: one a core).

    Raises `UserError` if onnxruntime cannot load the file or lacks the device.
    """
    name, provider = find_provider(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    # Waiting threads that spin would take the cores from those that read and draw.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        providers = list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UserError(f"{path}: onnxruntime cannot load it: {str(error)[:200]}") from None
    check_provider(session, name, device, path)
    return session
