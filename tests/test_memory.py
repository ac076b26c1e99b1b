"""What tensors leave to the next ones."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from utils import keep_freed_memory

FAULTS = """
import resource, sys, torch
from utils import pick_device
if sys.argv[1] == "kept":
    pick_device("cpu")
for i in range(6):
    torch.ones(64 << 20, dtype=torch.uint8)
    before, now = (now if i else 0), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(now - before)
"""


def test_a_refused_threshold_ends_the_rest(monkeypatch):
    """The second call alone ends glibc's own way of learning the first threshold."""
    calls = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert [number for number, _ in calls] == [-3]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_large_tensors_take_the_memory_of_earlier_ones():
    """The pages of 64 MiB, 16384 of 4 KiB, are new to the kernel each time by default, and never with `pick_device`."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("default", "kept")
    }
    assert faults["kept"] < 100 < faults["default"]
