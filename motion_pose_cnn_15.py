"""Motion stream: a ResNet on stacks of 10 pose-flow images, 30 channels.

    python motion_pose_cnn_15.py                                                          # train
    python motion_pose_cnn_15.py --resume record/motion_pose/checkpoint.pth.tar            # train on
    python motion_pose_cnn_15.py --resume record/motion_pose/model_best.pth.tar --evaluate # test
"""
from dataloader.motion_pose_dataloader import motion_sample
from dataloader.sampling import STACK_LENGTH
from files import ArgumentParser, run
from options import training_parser
from stream import run_stream
from training import Stream


def get_args_parser() -> ArgumentParser:
    """The command line; its defaults are the method's."""
    return training_parser("motion_pose", data="data/pose_flow", lr=1e-2, batch_size=64, epochs=50)


def get_stream() -> Stream:
    """Stacks of 10 pose-flow images with values in [0, 1]."""
    return Stream("motion_pose", "posef", length=STACK_LENGTH, sample=motion_sample)


def main(argv: list[str] | None = None) -> int:
    """Train or test; returns the exit status."""
    return run_stream(get_args_parser().parse_args(argv), get_stream())


if __name__ == "__main__":
    run(main)
