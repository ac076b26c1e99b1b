"""What every script's command line shares: mistakes that end in one line, argparse types, a table."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TextIO

ArgumentGroup = argparse._ActionsContainer  # what options can be added to: a parser or one of its groups
EXAMPLES = "examples:"


class UserError(Exception):
    """A mistake in the input, said in one line: what is wrong, with the path or value, and what to do."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default but None, "nothing", and that of a flag which is not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default in ("", (), [])
        return action.help if silent or "(default" in (action.help or "") else super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.strip().split("\n\n")
        return "\n\n".join(p if p.startswith(EXAMPLES) else fill(p, width, indent) for p in parts)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with help that shows defaults and mistakes that end as one `error:` line, status 2."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", _HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of options of this title, which is added if it is not there."""
        groups = (group for group in self._action_groups if group.title == title)
        return next(groups, None) or self.add_argument_group(title)

    def error(self, message: str) -> NoReturn:
        """Print `message` as the one line and leave with status 2 (argparse would print the usage too)."""
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        meant = [close for word in unknown for close in get_close_matches(word, self._option_string_actions, 1)]
        hint = f" (did you mean {', '.join(meant)}?)" if meant else ""
        self.exit(2, f"error: {message}{hint}; see --help\n")


def examples(doc: str, more: str = "") -> str:
    """An epilog for a script's help: the commands in its docstring, which start with `python`, as they are, and `more`.

    A backslash at the end of a line carries a command on.
    """
    commands = re.findall(r"^ *(python (?:.*\\\n)*.*)$", doc, re.MULTILINE)
    return "\n  ".join([EXAMPLES, *commands]) + f"\n\n{more}" * bool(more)


def run(main: Callable[[], int | None]) -> None:
    """Call `main` as a script's body and exit with its status (None counts as 0).

    A `UserError` or an `OSError` becomes one `error:` line and status 2; Ctrl-C and SIGTERM end with 130 and 143.
    """

    def stop(signum: int, frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(AttributeError):  # a name that the terminal cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # caught above
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
    # What a file is called or holds should not steer the terminal.
    printable = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    print("error: " + printable, file=sys.stderr, flush=True)
    return 2


# ---- argparse types ----


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`."""

    def parse(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError
        return int(text)

    # argparse puts the name into its message
    parse.__name__ = f"whole number from {least}" + f" to {most}" * (most < 2**31 - 1)
    return parse


def positive(text: str) -> float:
    """An argparse type: a positive, finite number."""
    if 0 < float(text) < math.inf:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def not_negative(text: str) -> float:
    """An argparse type: 0, or a positive, finite number."""
    return float(text) and positive(text)


def probability(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    if 0 <= float(text) <= 1:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: (height, width) from `HxW`, 16 to 8192 pixels each."""
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match or not all(16 <= int(side) <= 8192 for side in match.groups()):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 368x432, got {text!r}")
    return int(match[1]), int(match[2])


def shard(text: str) -> str:
    """An argparse type: `i/n`, part i of n, counted from 0; returns it without leading zeros."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, such as 0/4, got {text!r}")
    return f"{int(match[1])}/{int(match[2])}"


# ---- tables and lists ----


def print_first(lines: Sequence[str], rest: str = "", limit: int | None = 5, file: TextIO | None = None) -> None:
    """Print the first `limit` lines (None: all), by default on stderr, and how many more there are.

    That line reads `… and 1,713 more; REST`, where `rest` says what names them all.
    """
    file = file or sys.stderr
    for line in lines[:limit]:
        print(line, file=file)
    more = len(lines) - len(lines[:limit])
    if more:
        indent = " " * (len(lines[0]) - len(lines[0].lstrip()))
        print(f"{indent}… and {more:,} more" + f"; {rest}" * bool(rest), file=file)
    file.flush()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first one flush left, the others flush right; wide letters count as two."""
    table = [header, *rows]
    sizes = [max(map(width, column)) for column in zip(*table, strict=True)]
    for row in table:
        spaces = [" " * (size - width(cell)) for cell, size in zip(row, sizes, strict=True)]
        others = [space + cell for cell, space in zip(row[1:], spaces[1:], strict=True)]
        print("  ".join([row[0] + spaces[0], *others]).rstrip())


def width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    return sum(
        1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text if not unicodedata.combining(letter)
    )
