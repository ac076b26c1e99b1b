"""What live classification tells: a line on the terminal, and a table that grows with every window."""

import contextlib
import csv
import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, width
from prediction.classify import Prediction
from prediction.results import NOBODY_IN_VIEW, top_classes

COLUMNS = ("time", "seconds", "frames", "fps", "people", "latency", "class", "probability")


class Classified(NamedTuple):
    """A window's scores, and the time of its newest frame; `handled` of `captured` frames had been handled then."""

    prediction: Prediction
    time: float  # of time.monotonic
    seconds: float  # since the first frame
    frames: int  # handled ones in the window
    fps: float  # of those
    handled: int
    captured: int


class Screen:
    """Where lines are shown: on a terminal each in the place of the one before, else one below the other."""

    def __init__(self) -> None:
        self.in_place, self.begun = sys.stdout.isatty(), False

    def show(self, line: str) -> None:
        """Show a line, on a terminal cut to its width."""
        if not self.in_place:
            print(line, flush=True)
            return
        while width(line) >= shutil.get_terminal_size().columns:
            line = line[:-1]
        print(f"\r{line}\x1b[K", end="", flush=True)
        self.begun = True

    def notice(self, line: str) -> None:
        """Print a line on stderr, below what is shown."""
        self.close()
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave what is shown where it is."""
        if self.begun:
            print(flush=True)
        self.begun = False


def people_share(result: dict) -> float | None:
    """Share of the window's frames with people; None if nobody is looked for."""
    return result["frames_with_people"] / result["frames_looked_at"] if result["frames_looked_at"] else None


def describe_in_a_line(seen: Classified, result: dict, latency: float, topk: int) -> str:
    """The best classes in percent, the streams' own best, and how the machine keeps up; `result` is of `describe`."""
    best = ", ".join(f"{name} {100 * value:.1f}" for name, value in top_classes(result["fused"], topk))
    streams = result["streams"] if len(result["streams"]) > 1 else {}
    own = "".join(
        f" | {stream}: {name} {100 * value:.1f}"
        for stream, scores in streams.items()
        for name, value in top_classes(scores, 1)
    )
    if not best:
        best = NOBODY_IN_VIEW
    elif result["answer"] is None:
        best = f"none of these: {best}"
    return f"{seen.seconds:6.1f} s  {describe_pace(seen, result, latency)}  {best}{own}"


def describe_pace(seen: Classified, result: dict, latency: float) -> str:
    """How the machine keeps up, and in how much of the window people were found, if they were looked for."""
    share = people_share(result)
    people = "" if share is None else f"  people {100 * share:.0f} %"
    return f"{seen.fps:4.1f} fps  latency {latency:.1f} s{people}"


@contextlib.contextmanager
def open_table(path: Path | None, classes: Sequence[str]) -> Iterator[Callable[[Sequence], object]]:
    """Yield what appends a row, at once and whole, to the CSV `path`, which may hold some already (None: no table).

    Raises `UserError` if what it holds has other columns.
    """
    if path is None:
        yield lambda row: None
        return
    header = _csv_line([*COLUMNS, *classes])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        file.seek(0)
        if file.read(len(header)) not in (b"", header):
            raise UserError(f"--csv {path}: is there and has other columns; remove it or give another name")
        if file.tell() == 0:
            file.write(header)
        try:
            yield lambda row: file.write(_csv_line(row))
        except OSError as error:
            error.filename = error.filename or str(path)  # "no space left" should say where
            raise


def table_row(seen: Classified, result: dict, latency: float, classes: Sequence[str]) -> list:
    """A window's values for the table: clock time of its newest frame, …, the fused probability of every class."""
    captured = datetime.fromtimestamp(time.time() - (time.monotonic() - seen.time)).astimezone()
    share, probabilities = people_share(result), result["fused"]["probabilities"]
    numbers = (seen.fps, "" if share is None else share, latency)
    row = [captured.isoformat(timespec="milliseconds"), f"{seen.seconds:.3f}", seen.frames]
    row += [value if value == "" else f"{value:.3f}" for value in numbers]
    if not probabilities:
        return [*row, NOBODY_IN_VIEW, *[""] * (1 + len(classes))]
    values = [max(probabilities.values()), *(probabilities[name] for name in classes)]
    return [*row, result["answer"] or "none", *(f"{value:.6f}" for value in values)]


def _csv_line(values: Sequence) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "replace")
