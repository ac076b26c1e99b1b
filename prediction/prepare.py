"""From the options of predict.py and app.py to what classifies videos."""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from common.frame_settings import settings_from_arguments
from common.optical_flow import flow_method
from fusion.calibration import read_calibration
from network import Model
from pose.estimators import Estimator, estimator_from_arguments
from pose.people import cleaning_from_arguments
from prediction.arguments import checkpoints
from prediction.classify import Options
from prediction.models import check_same_classes, common_settings, load_for_testing
from prediction.results import Fusion
from training.resume import trained_poses
from training.streams import FLOW, MOTION_POSE, SKELETON
from utils import computes_in_half, pick_device


class Classifier(NamedTuple):
    """Streams ready for testing, by name; how they are fused; what finds people, if anything; how videos are read."""

    models: dict[str, Model]
    fusion: Fusion
    estimator: Estimator | None
    options: Options

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.fusion.classes


def prepare(args: argparse.Namespace, keypoints: bool, overlay: bool) -> Classifier:
    """Load what `args` ask for; nobody is estimated where there are `keypoints`. Raises `UserError`."""
    device = pick_device(args.device)
    class_index = args.ucf_list / args.class_index
    models = {
        stream.name: load_for_testing(path, stream, class_index, device) for stream, path in checkpoints(args).items()
    }
    check_same_classes(models.values())
    calibrations = {name: read_calibration(model.checkpoint, model.path) for name, model in models.items()}
    fusion = Fusion(next(iter(models.values())).classes, calibrations, args.weights, args.threshold)
    looking = [models[stream.name] for stream in (MOTION_POSE, SKELETON) if stream.name in models]
    known = [trained_poses(model.checkpoint, model.path) for model in looking if not keypoints]
    poses = next(filter(None, known), {})
    estimator = None
    if not keypoints and (args.motion or args.skeleton or (overlay and (args.model or args.pose_weights))):
        estimator = make_estimator(args, poses)
    settings = settings_from_arguments(args, common_settings(models.values(), args))
    cleaning = cleaning_from_arguments(args, float(settings.rate()), poses)
    flow = None
    if args.flow:  # computed as that of training
        flow = flow_method(models[FLOW.name].checkpoint.get("options", {}).get("flow_method") or "dis", device)
    amp = args.amp and computes_in_half(device)
    return Classifier(
        models, fusion, estimator, Options(settings, cleaning, poses.get("every") or 1, overlay, amp, flow)
    )


def make_estimator(args: argparse.Namespace, trained: dict) -> Estimator:
    """What finds people: what found those that the streams were `trained` on, but for the options given.

    Says so if the two differ.
    """
    estimator = estimator_from_arguments(args, trained)
    for name, value in estimator.settings.items() if "model" in trained else ():
        if trained.get(name) != value:
            made = f"was trained on people found with {name} = {trained.get(name)}, now it is {value}"
            print(f"warning: {args.motion or args.skeleton} {made}", file=sys.stderr)
            break
    return estimator
