"""The folder that a run writes to: what lies there, and that one run at a time writes it."""

import contextlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from common.atomic import recover_folders
from common.cli import UserError
from training.streams import Stream

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None

CHECKPOINT, BEST = "checkpoint.pth.tar", "model_best.pth.tar"


def scores_path(record: Path, stream: Stream, what: str) -> Path:
    """Where a stream's scores per video go: `…_video_preds.pickle`, or `…_video_val_preds.pickle`."""
    return record / f"{stream.name}_video_{'val_' if what == 'val' else ''}preds.pickle"


def record_path(record: Path, stream: Stream, what: str) -> Path:
    """Where the record of the epochs goes; `what` is train, val or test."""
    return record / f"{stream.prefix}_{what}.csv"


def selected_on(args: Namespace) -> str:
    """What the best model of a run is chosen on, in words."""
    return "validation set" if args.val_groups or args.val_list else "test list"


def run_files(record: Path, stream: Stream) -> list[Path]:
    """Those files of a run of `stream` that `record` holds."""
    names = [record / name for name in (CHECKPOINT, BEST, "curves.png", "summary.json", "evaluation.json")]
    names += [scores_path(record, stream, what) for what in ("val", "test")]
    names += [record_path(record, stream, what) for what in ("train", "val", "test")]
    return [path for path in names if path.exists()]


def check_record(args: Namespace, stream: Stream) -> None:
    """Raise `UserError` if `args.record` holds a run that is not the one of `--resume`, nor to be overwritten."""
    record, there = args.record, run_files(args.record, stream)
    if record.exists() and not record.is_dir():
        raise UserError(f"--record {record}: is no folder; give the name of one")
    own = args.resume is not None and args.resume.resolve().parent == record.resolve()
    if args.overwrite and own:
        raise UserError(f"--overwrite would remove {args.resume}, which --resume needs; leave one of them out")
    # A run that ended before its first checkpoint left nothing that could be resumed, or missed.
    if not own and not args.overwrite and any(path.suffix in (".tar", ".pickle") for path in there):
        where = f"resume it with --resume {record / CHECKPOINT}, " if record / CHECKPOINT in there else ""
        raise UserError(f"{record}: holds a run; {where}give another --record, or remove it with --overwrite")


@contextlib.contextmanager
def open_record(args: Namespace, stream: Stream) -> Iterator[None]:
    """Take `args.record` for one training run: lock it until the block ends, and remove what is to be overwritten.

    Raises `UserError` as `check_record` does, or if another run trains there. A killed process keeps no lock.
    """
    args.record.mkdir(parents=True, exist_ok=True)
    with (args.record / ".lock").open("a") as lock:
        try:
            if fcntl:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{args.record}: another run is training there; wait for it, or give another --record"
            ) from None
        recover_folders(args.record)  # what killed runs left
        check_record(args, stream)
        if args.overwrite:
            for path in run_files(args.record, stream):
                path.unlink()
        yield
