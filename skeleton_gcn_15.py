"""Skeleton stream: ST-GCN++ on the coordinates of the main people's parts; for few videos and slow machines.

python skeleton_gcn_15.py --preview people.png
python skeleton_gcn_15.py
python skeleton_gcn_15.py --resume record/skeleton/checkpoint.pth.tar
python skeleton_gcn_15.py --evaluate \\
    --resume record/skeleton/model_best.pth.tar
"""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from dataloader.frame_index import check_usable
from dataloader.motion_pose_dataloader import load_all_keypoints
from dataloader.skeleton_dataloader import PEOPLE
from dataloader.split_train_test_video import read_split
from pose.draw import write_chosen_preview
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import SKELETON


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the stream's recipe."""
    parser = training_parser(SKELETON.name, __doc__, data="data/pose_flow", family=SKELETON.family)
    parser.set_defaults(workers=0)  # the keypoints are in memory, and a sample takes less than handing it over
    text = "write 12 frames of training videos, the chosen people in colour and the others in grey, and stop"
    parser.group("data").add_argument("--preview", type=Path, metavar="FILE.png", help=text)
    return parser


def preview(args: argparse.Namespace) -> int:
    """Write the picture that `--preview` asks for."""
    videos = read_split(args.ucf_list, args.split, args.class_index).train
    keypoints, _, bad = load_all_keypoints(args.data, videos)
    check_usable(bad if not (args.skip_broken and keypoints) else [], len(videos))
    write_chosen_preview(args.preview, list(keypoints.items()), PEOPLE)
    print(f"written: {args.preview}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Train, test or preview; returns the exit status."""
    args = parse_options(get_args_parser(), SKELETON.name, argv)
    return preview(args) if args.preview else run_stream(args, SKELETON)


if __name__ == "__main__":
    run(main)
