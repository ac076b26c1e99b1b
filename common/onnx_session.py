"""Networks in ONNX files, opened with ONNX Runtime."""

import os
from typing import TYPE_CHECKING

from common.cli import UserError

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}


def find_provider(device: str) -> tuple[str, str]:
    """The device that `auto` stands for, and onnxruntime's provider; raises `UserError` if there is none."""
    available = available_providers()
    name = device if device != "auto" else "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[name] not in available:
        raise UserError(f"--device {name}: this onnxruntime has no {PROVIDERS[name]}; use another, or --device cpu")
    return name, PROVIDERS[name]


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
    _, provider = find_provider(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    # Waiting threads that spin would take the cores from those that read and draw.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        providers = list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UserError(f"{path}: onnxruntime cannot load it: {str(error)[:200]}") from None
