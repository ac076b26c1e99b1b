"""Videos, random networks and people made up from pixels, for tests of prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch

import process_pose
from fusion.metrics import Calibration
from network import build_network
from pose.estimators import Estimator
from pose.graph_network import build_graph_network
from pose.skeleton import NUM_PARTS
from prediction.classify import Classifier, Fusion, Options, load_for_testing
from tests.helpers import call_main, moving, write_video
from tests.test_network import random_statistics
from training.streams import Stream
from utils import save_checkpoint

CLASSES = ["Tai Chi", "Bäume fällen", "Diving"]
SIZE = 64  # of the networks' images
FRAMES = ("--short-side", "40")
# Name, path, number of frames, (width, height): shorter than a stack, a single frame, longer than all stacks.
VIDEOS = [
    ("Übung 1.a", "Tai Chi/v_Übung 1.a.avi", 30, (64, 48)),
    ("kurz - hoch", "Bäume fällen/kurz - hoch.mp4", 6, (48, 80)),
    ("one", "Diving/one.mkv", 1, (64, 48)),
    ("long", "Diving/v_long.avi", 230, (48, 40)),
]
STREAMS = ("spatial", "motion_pose")
SCRIPTS = (
    ("spatial_cnn_15", "frames", "spatial", 3),
    ("motion_pose_cnn_15", "pose_flow", "motion_pose", 30),
    ("motion_cnn_15", "flow", "flow", 20),
)
COLOURS = {"Red": (230, 20, 20), "Tai Chi, grün": (20, 230, 20), "Blue": (20, 20, 230)}
COLOUR_CLASSES = list(COLOURS)


def write_checkpoint(path: Path, channels: int, seed: int, classes=CLASSES, count: int | None = None) -> None:
    """A random network, of timm's smallest ones but for RGB, whose logits tell one image from another."""
    torch.manual_seed(seed)
    arch = "resnet18" if channels == 3 else "test_resnet"
    network = build_network(arch, channels, count or len(classes))
    network.fc.weight.data *= 3 if channels == 3 else 30
    save_checkpoint(
        path,
        {
            "epoch": 1,
            "arch": arch,
            "classes": list(classes),
            "in_channels": channels,
            "image_size": SIZE,
            "state_dict": network.state_dict(),
            "best_prec1": 0.0,
        },
    )


def write_skeleton_checkpoint(path: Path, classes=CLASSES) -> Path:
    """A random network on skeletons whose logits tell one person from another."""
    torch.manual_seed(0)
    network = random_statistics(build_graph_network("stgcnpp_small", 11, len(classes)))
    network.fc.weight.data *= 300
    content = {"epoch": 1, "arch": "stgcnpp_small", "classes": list(classes), "in_channels": 11, "best_prec1": 0.0}
    save_checkpoint(path, content | {"state_dict": network.state_dict()})
    return path


def classifier_of(files: dict[Stream, Path], classes=CLASSES, people=None, options=None) -> Classifier:
    """The networks of checkpoints on the CPU, fused with equal weights."""
    device = torch.device("cpu")
    models = {stream.name: load_for_testing(file, stream, Path("none"), device) for stream, file in files.items()}
    return Classifier(models, Fusion(classes, {name: Calibration() for name in models}), people, options or Options())


def people_of(picture: np.ndarray) -> np.ndarray:
    """One person or two whose coordinates depend on every pixel, slightly, and all parts of whom are found."""
    values = picture.astype(np.float64)
    centre = 0.3 + 0.4 * (values.mean((0, 1)) * 7.3 % 1)
    person = np.ones((NUM_PARTS, 3), np.float32)
    person[:, 0] = centre[0] + 0.2 * np.cos(np.arange(NUM_PARTS) * centre[2])
    person[:, 1] = centre[1] + 0.2 * np.sin(np.arange(NUM_PARTS))
    other = person.copy()
    other[:, 0], other[:, 2] = 1 - person[:, 0], 0.5
    return np.stack([person, other] if values.mean() % 1 > 0.4 else [other])


def fake_estimator(seen: list | None = None) -> Estimator:
    """Finds `people_of` every frame, and notes the number of frames in `seen`."""

    def infer(frames):
        if seen is not None:
            seen.extend(frames)
        return [(frame,) for frame in frames]

    return Estimator(np.ascontiguousarray, infer, lambda *output: group(*output), {"model": "fake"})


def group(raw, frame_size):
    return people_of(raw[0])


def nobody(raw, frame_size):
    return np.zeros((0, NUM_PARTS, 3), np.float32)


def noise(count: int, seed: int = 0, size=(40, 52)) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def coloured(*counts: int) -> list[np.ndarray]:
    """Frames of each colour in turn."""
    plain = [np.full((40, 52, 3), colour, np.uint8) for colour in COLOURS.values()]
    return [frame for frame, count in zip(plain, counts, strict=False) for _ in range(count)]


def write_colour_network(path: Path) -> Path:
    """A ResNet-18 that passes a picture's colours on: logits are its positive mean red, green and blue."""
    network = build_network("resnet18", 3, 3)
    for name, parameter in network.named_parameters():
        parameter.data.zero_()
        if name == "conv1.weight":
            parameter.data[range(3), range(3), 3, 3] = 1
        elif name == "bn1.weight" or name.endswith("downsample.1.weight"):
            parameter.data.fill_(1)
        elif name.endswith("downsample.0.weight"):
            parameter.data[range(3), range(3), 0, 0] = 1
        elif name == "fc.weight":
            parameter.data[range(3), range(3)] = 2
    content = {"epoch": 1, "arch": "resnet18", "classes": COLOUR_CLASSES, "in_channels": 3, "image_size": 32}
    save_checkpoint(path, content | {"state_dict": network.state_dict(), "best_prec1": 0.0})
    return path


def make_predicted(root: Path) -> None:
    """Fill `root` with videos, checkpoints, and what the single steps make of them: frames, poses, flow, scores."""
    for _, path, count, size in VIDEOS:
        write_video(root / "videos" / path, moving(count, size))
    lists = root / "lists"
    lists.mkdir()
    lists.joinpath("index.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, 1)))
    lists.joinpath("testlist04.txt").write_text("".join(f"{path}\n" for _, path, _, _ in VIDEOS))
    lists.joinpath("trainlist04.txt").write_text("".join(f"{name}/other.avi\n" for name in CLASSES))
    steps = [
        ("extract_frames", root / "videos", root / "frames", *FRAMES, "--workers", 0),
        ("process_pose", "--frames", root / "frames", "--out", root / "pose_flow", "--images", "--workers", 0),
        ("extract_flow", root / "frames", root / "flow", "--workers", 0),
    ]
    common = ("--ucf-list", lists, "--class-index", "index.txt")
    for seed, (script, folder, stream, channels) in enumerate(SCRIPTS, 1):
        checkpoint = root / f"{stream.removesuffix('_pose')}.pth.tar"
        write_checkpoint(checkpoint, channels, seed)
        test = ("--data", root / folder, "--resume", checkpoint, "--evaluate", "--record", root / "record" / stream)
        steps.append((script, *test, *common, "--workers", 0, "--device", "cpu", "--no-amp"))
    pickles = [root / f"record/{stream}/{stream}_video_preds.pickle" for stream in STREAMS]
    steps.append(("average_fusion", *pickles, *common, "--weights", 1, 2, "--out", root / "record/fused"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pose, "estimator_from_arguments", lambda *args: fake_estimator())
        for step in steps:
            finished = call_main(*step)
            assert finished.returncode == 0, finished.stderr
    (root / "record/fused/fused_video_preds.pickle").symlink_to("fusion_video_preds.pickle")
