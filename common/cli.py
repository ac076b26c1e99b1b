"""What every script's command line shares: mistakes that end in one line, argparse types, a table."""

import argparse
import contextlib
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Sequence


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


# ---- argparse types ----


def whole_number(least: int):
    """An argparse type: an integer of at least `least`."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value < 2**31:
            raise ValueError
        return value

    parse.__name__ = f"whole number from {least}"  # argparse puts the name into its message
    return parse


def positive(text: str) -> float:
    """An argparse type: a positive, finite number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


# ---- tables ----


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first one flush left, the others flush right; wide letters count as two."""
    table = [header, *rows]
    sizes = [max(width(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = [" " * (size - width(cell)) for cell, size in zip(row, sizes, strict=True)]
        print(
            (
                row[0] + cells[0] + "".join("  " + space + cell for cell, space in zip(row[1:], cells[1:], strict=True))
            ).rstrip()
        )


def width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )
