"""Colours and fine patterns on their way from a video or a skeleton to a network's input."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.video import resize_short_side
from dataloader.frame_index import index_frames
from dataloader.images import to_input
from dataloader.motion_pose_dataloader import motion_sample
from dataloader.sampling import random_state
from dataloader.spatial_dataloader import spatial_sample
from dataloader.split_train_test_video import Video
from network import IMAGENET_MEAN, IMAGENET_STD
from pose.draw import draw_people
from pose.keypoints import save_keypoints
from tests.helpers import call_main, write_video

GENERATORS = {"testing": lambda: None, "training": lambda: random_state(0, 0, "a")}
training_or_testing = pytest.mark.parametrize("generator", GENERATORS.values(), ids=list(GENERATORS))


def video_in(root):
    """The one video whose folder lies in `root`."""
    (video,), bad = index_frames(root, [Video("a", 0, "A", "A/a.avi")])
    assert not bad
    return video


def network_input(sample, mean=None, std=None) -> np.ndarray:
    """Input of the network (N, C, H, W) for a sample's clips."""
    return to_input(torch.as_tensor(sample.images), sample.index, mean, std).numpy()


@training_or_testing
@pytest.mark.parametrize("colour", [(230, 20, 60), (20, 60, 230)])
def test_colours_of_a_video_reach_the_network_as_red_green_blue(colour, generator, tmp_path):
    write_video(tmp_path / "videos" / "a.avi", np.full((3, 48, 64, 3), colour, np.uint8))
    finished = call_main("extract_frames", tmp_path / "videos", tmp_path / "frames", "--short-side", 40, "--workers", 0)
    assert finished.returncode == 0, finished.stderr
    sample = spatial_sample(video_in(tmp_path / "frames"), generator(), 32)
    values = network_input(sample, IMAGENET_MEAN, IMAGENET_STD).transpose(0, 2, 3, 1) * IMAGENET_STD + IMAGENET_MEAN
    assert np.abs(255 * values - colour).max() < 8


@training_or_testing
def test_colours_of_limbs_reach_the_network_as_red_green_blue(generator, tmp_path):
    """The left shin is orange: (B, G, R) = (0, 85, 255) in OpenPose's table."""
    people = np.zeros((3, 18, 3), np.float32)
    people[:, 12] = 0.2, 0.5, 1
    people[:, 13] = 0.8, 0.5, 1
    save_keypoints(tmp_path / "a" / "keypoints.npz", people, np.arange(1, 4, dtype=np.int32), 3, (224, 224))
    finished = call_main("process_pose", "--out", tmp_path, "--from-keypoints", "--workers", 0)
    assert finished.returncode == 0, finished.stderr
    values = 255 * network_input(motion_sample(video_in(tmp_path), generator(), 224))
    assert values.shape[1:] == (30, 224, 224)
    brightest = values[0].sum(0)[:, 112].argmax()  # the limb's row, in the middle column
    for image in values[0, :, brightest, 100:124].reshape(10, 3, -1):
        red, green, blue = image.mean(1)
        assert red > 225 and abs(green - 85) < 30 and blue < 30, (red, green, blue)


def chequered(side: int) -> np.ndarray:
    """White and black pixels in turn (side, side, 3)."""
    return np.repeat(255 * (np.indices((side, side)).sum(0) % 2)[..., None], 3, axis=2).astype(np.uint8)


@training_or_testing
@pytest.mark.parametrize("sample", [spatial_sample, motion_sample])
def test_a_fine_pattern_becomes_grey_in_frames_and_crops(sample, generator, tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(1, 4):
        # Three pixels become one in training and testing; without antialiasing that is the one in the middle.
        side = 168 if generator() is None else 192
        Image.fromarray(chequered(side)).save(tmp_path / "a" / f"frame{number:06d}.jpg", quality=100, subsampling=0)
    values = 255 * network_input(sample(video_in(tmp_path), generator(), 56))
    assert values.shape[2:] == (56, 56)
    assert np.abs(values - 127.5).max() < 45 and values.std() < 15


def test_a_fine_pattern_becomes_grey_when_frames_are_extracted():
    frame = resize_short_side(chequered(192), 64)
    assert frame.shape == (64, 64, 3)
    assert np.abs(frame - 127.5).max() < 45 and frame.std() < 15


def test_limbs_keep_their_pure_colours_in_a_smaller_drawing():
    people = np.zeros((1, 18, 3), np.float32)
    people[0, 12:14] = [(0.2, 0.3, 1), (0.7, 0.8, 1)]
    colours = {tuple(pixel) for pixel in draw_people(people, (672, 672), 224, 672).reshape(-1, 3).tolist()}
    # Three pixels become one, the one in the middle: nothing between limb, discs and background.
    assert colours == {(0, 0, 0), (255, 0, 0), (255, 0, 85), (255, 85, 0)}
