"""What of a run's options can be wrong, looked at before weights are downloaded and networks are read or built."""

from argparse import Namespace

from common.cli import UserError
from dataloader.frame_index import find_folders
from dataloader.split_train_test_video import check_lists
from utils import check_file


def check_options(args: Namespace) -> None:
    """Raise `UserError` for options that do not go together, and for files and folders that are not there.

    Of a checkpoint's run only those lists are looked for that the command line names: the others are its own.
    """
    features = args.write_features
    if args.evaluate and args.resume is None:
        raise UserError("--evaluate needs a checkpoint to test; give it with --resume CHECKPOINT")
    if features and not args.evaluate:
        raise UserError(f"--features {features}: is written of a trained network; add --resume and --evaluate")
    if features and features.is_dir():
        raise UserError(f"--features {features}: is a folder; give the name of a file to write, FILE.npz")
    if args.data:  # temporal heads know their videos and lists
        named = {name: getattr(args, name) for name in ("split", "class_index", "val_list")}
        if args.resume:
            named = {name: value if name in args.given else None for name, value in named.items()}
        if not args.resume or "ucf_list" in args.given:
            check_lists(args.ucf_list, **named)
        if not args.resume or "data" in args.given:
            find_folders(args.data, [])
    if args.resume:
        check_file(args.resume)
    elif args.weights not in ("imagenet", "none"):
        check_file(args.weights)
