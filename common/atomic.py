"""Files and folders that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DAY = 24 * 60 * 60


def temporary_name(path: Path) -> Path:
    """A hidden sibling of `path` with a random name; `recover_folders` removes what a killed run leaves there."""
    return path.with_name(f".tmp-{secrets.token_hex(8)}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator:
    """Open a file to write that appears under `path` only when it is complete and on the disk (fsync).

    If the block raises, the old file stays as it was. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # "no space left" should say where
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write` a text in UTF-8; names of files in it may not be valid Unicode."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "replace"))


@contextlib.contextmanager
def atomic_folder(path: Path, temporary: Path) -> Iterator[Path]:
    """Yield an empty folder `temporary` that takes the place of `path` when the block ends well, else vanishes."""
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # "no space left" should say where
        raise


def replace_folder(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`, which may exist.

    A process killed between the two renames leaves the old folder as `.old-NAME`; `recover_folders` brings it back.
    """
    old = path.with_name(f".old-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover_folders(parent: str | os.PathLike) -> None:
    """Tidy what killed runs left in `parent`: bring replaced folders back, remove temporary names a day old."""
    for old in Path(parent).glob(".old-*"):
        target = old.with_name(old.name.removeprefix(".old-"))
        with contextlib.suppress(FileNotFoundError):  # another process tidies as well
            if not target.exists():
                old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    for leftover in Path(parent).glob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > DAY:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
