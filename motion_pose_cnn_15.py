"""Motion stream: a ResNet on stacks of 10 pose-flow images, 30 channels.

    python motion_pose_cnn_15.py                                                          # train
    python motion_pose_cnn_15.py --resume record/motion_pose/checkpoint.pth.tar            # train on
    python motion_pose_cnn_15.py --resume record/motion_pose/model_best.pth.tar --evaluate # test
"""
from dataloader.motion_keypoints import prepare_keypoints
from dataloader.motion_pose_dataloader import prepare_pose_flow
from dataloader.sampling import STACK_LENGTH
from files import ArgumentParser, run
from options import training_parser
from stream import run_stream
from training import Stream


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are the method's."""
    parser = training_parser("motion_pose", data="data/pose_flow", lr=1e-2, batch_size=64, epochs=50)
    parser.add_argument("--from-keypoints", action="store_true",
                        help="draw the pose images on the device from the keypoints.npz files in --data, which are "
                             "held in memory; augments by moving the body, and mirrors it")
    return parser


def get_stream(from_keypoints: bool = False) -> Stream:
    """Stacks of 10 pose-flow images with values in [0, 1], read or drawn."""
    prepare = prepare_keypoints if from_keypoints else prepare_pose_flow
    return Stream("motion_pose", "posef", length=STACK_LENGTH, prepare=prepare)


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    args = get_args_parser().parse_args(argv)
    return run_stream(args, get_stream(args.from_keypoints))


if __name__ == "__main__":
    run(main)
