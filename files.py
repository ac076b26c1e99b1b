"""What every script needs without torch: clear errors, whole files, lists of frames."""
import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FRAME_NAME = "frame{:06d}.jpg"
FRAME_PATTERN = re.compile(r"frame(\d{6,})\.jpg")
VIDEO_EXTENSIONS = frozenset(
    (".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
     ".ts", ".vob", ".webm", ".wmv")
)


class UserError(Exception):
    """A mistake in the input, said in one line: what is wrong, with the path or value, and what to do."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where it says something."""

    def _get_help_string(self, action):
        said = "default" in (action.help or "") or action.default in (None, False, True, [], (), "")
        return action.help if said else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with help that shows defaults and mistakes that end as one `error:` line, status 2."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", _HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str):
        """Print `message` as the one line and leave with status 2 (argparse would print the usage too)."""
        self.exit(2, f"error: {message}; see --help\n")


def run(main: Callable[[], int | None]) -> None:
    """Call `main` as a script's body and exit with its status (None counts as 0).

    A `UserError` or an `OSError` (full disk, no permission) becomes one `error:` line and status 2,
    Ctrl-C and SIGTERM end with 130 and 143 after the clean-up of `finally` blocks.
    """

    def stop(signum, frame):
        raise SystemExit(128 + signum)

    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(AttributeError, ValueError):  # a name that the terminal cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except UserError as error:
        status = fail(str(error))
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = fail(f"{where}{error.strerror or ' '.join(map(str, error.args))}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


def fail(message: str) -> int:
    """Print `error: message` as a single line on stderr and return the exit status 2."""
    line = " ".join(message.split())
    if not line.isprintable():  # what a file is called or holds should not steer the terminal
        line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    print("error: " + line, file=sys.stderr, flush=True)
    return 2


# ---- files and folders written whole or not at all ----


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
            target = parent / leftover.name[len(".old-"):]
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


# ---- frames on disk ----


def count_frames(folder: str | os.PathLike) -> int:
    """Number of frames `frame000001.jpg`, `frame000002.jpg`, … of one video; 0 means that there are none.

    Raises `UserError` if the folder cannot be read or the numbering does not run from 1 without a gap.
    """
    try:
        matches = [FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    numbers = {int(match[1]) for match in matches if match}
    if numbers and max(numbers) != len(numbers):
        gap = next(number for number in range(1, len(numbers) + 1) if number not in numbers)
        missing = FRAME_NAME.format(gap)
        raise UserError(f"{folder}: {missing} is missing, yet later frames exist; make the folder again")
    return len(numbers)


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """Paths of a video's frames in order; raises as `count_frames` does."""
    return [Path(folder, FRAME_NAME.format(number)) for number in range(1, count_frames(folder) + 1)]


def find_frame_folders(root: str | os.PathLike) -> list[str]:
    """Names, relative to `root` and sorted, of the folders of videos: `VIDEO`, or `CLASS/VIDEO`.

    A folder that holds folders only is taken for a class. Raises `UserError` if `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    names = []
    for path in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        inside = [child for child in path.iterdir() if not child.name.startswith(".")]
        if inside and all(child.is_dir() for child in inside):
            names += sorted(f"{path.name}/{child.name}" for child in inside)
        else:
            names.append(path.name)
    return names
