"""Motion stream: a ResNet on stacks of 10 pose-flow images, 30 channels.

python motion_pose_cnn_15.py
python motion_pose_cnn_15.py --resume record/motion_pose/checkpoint.pth.tar
python motion_pose_cnn_15.py --evaluate \\
    --resume record/motion_pose/model_best.pth.tar
"""

from argparse import BooleanOptionalAction, Namespace

from common.cli import ArgumentParser, UserError, run, whole_number
from dataloader.frame_index import looks_like_pose_flow
from dataloader.images import SQUARE_CROPS
from training.options import parse_options, training_parser
from training.run import run_stream
from training.streams import MOTION_POSE


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are those of the modern recipe."""
    parser = training_parser(MOTION_POSE.name, __doc__, data="data/pose_flow")
    add, flag = parser.group("training").add_argument, BooleanOptionalAction
    add("--segments", type=whole_number(1), metavar="N", help="stacks of a video in training, with consensus (TSN)")
    add("--normalize", action=flag, help="take the mean and standard deviation of pose flow out of the images")
    text = (
        "draw the pose images from the keypoints.npz in --data, and move and mirror the bodies (modern recipe: if any)"
    )
    add("--from-keypoints", action=flag, help=text)
    text = "people: the box of the main people over the video, in training and testing alike; zoom: the whole picture, "
    text += "in training up to 1.2 times smaller or larger than in the test; random: always larger, as the original "
    text += "(modern recipe: people, zoom for images on disk)"
    add("--crop", choices=("people", *SQUARE_CROPS), help=text)
    return parser


def data_options(args: Namespace) -> dict:
    """Whether to draw from keypoints, and the crop: unless told, where --data has some, and their people's box."""
    drawn = looks_like_pose_flow(args.data) if args.from_keypoints is None else args.from_keypoints
    crop = args.crop or ("people" if drawn else "zoom")
    if crop == "people" and not drawn:
        raise UserError("--crop people: needs keypoints, which tell where people are; add --from-keypoints")
    return {"from_keypoints": drawn, "crop": crop}


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(parse_options(get_args_parser(), MOTION_POSE.name, argv, data_options), MOTION_POSE)


if __name__ == "__main__":
    run(main)
