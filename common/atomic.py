"""Files and folders that appear whole or not at all."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Hidden sibling of `path` that no other process uses; it tells its host and process for the clean-up."""
    digest = hashlib.sha1(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return path.with_name(f".tmp-{_host()}-{os.getpid()}-{digest}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator:
    """Open a file to write that appears under `path` only when it is complete and on the disk.

    The content goes to a temporary name in the same folder, is flushed (fsync) and renamed. If the block
    raises, the old file stays as it was and the temporary one is removed. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "no space left" should say where
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends well, else vanishes.

    An existing folder `path` is replaced. A process killed between the two renames of a replacement leaves
    the old folder under a hidden name, and `recover_folders` brings it back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = path.with_name(f".old-{path.name}")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def recover_folders(parent: str | os.PathLike) -> None:
    """Tidy what killed runs left in `parent`: bring replaced folders back, remove stale temporary ones.

    Temporary names of living processes of this host, or of any other host, are left alone for a day.
    """
    parent = Path(parent)
    if not parent.is_dir():
        return
    for leftover in [path for path in parent.iterdir() if path.name.startswith((".old-", ".tmp-"))]:
        if leftover.name.startswith(".old-"):
            target = parent / leftover.name[len(".old-") :]
            if target.exists():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.rename(target)
        elif _is_stale(leftover):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _is_stale(temporary: Path) -> bool:
    host, pid = (temporary.name.split("-") + ["", ""])[1:3]
    if host == _host() and pid.isdigit() and (int(pid) == os.getpid() or not _runs(int(pid))):
        return True
    with contextlib.suppress(OSError):
        return time.time() - temporary.stat().st_mtime > 86400
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie has ended, though its number is still taken (/proc: Linux only).
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"
