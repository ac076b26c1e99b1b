from argparse import Namespace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from common.frames import Frames
from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.motion_pose_dataloader import (
    affine_map,
    keypoint_sample,
    load_all_keypoints,
    motion_sample,
    move_people,
)
from dataloader.names import Video
from dataloader.sampling import random_state
from dataloader.skeleton_dataloader import people_box
from dataloader.split_train_test_video import read_split
from fusion.scores import load_scores
from motion_pose_cnn_15 import data_options, get_args_parser
from network import Model
from pose.draw import draw_people
from pose.keypoints import load_keypoints, make_keypoints, people_of_frame, save_keypoints
from pose.people import crop_people
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS, MIRROR
from tests.helpers import assert_error, make_tiny, train_script
from training.options import parse_options
from training.streams import MOTION_POSE, Window, trained_stream
from utils import load_checkpoint, save_checkpoint


def walking_people(label: int, frames: int) -> np.ndarray:
    """Two figures (frames, 2, 18, 3) whose limbs swing with a speed of the class's own."""
    generator = np.random.default_rng(label)
    rest = generator.uniform(0.25, 0.75, (1, 2, 18, 2))
    swing = 0.08 * np.sin(np.arange(frames)[:, None, None, None] * (0.3 + 0.4 * label) + rest * 9)
    people = np.concatenate([rest + swing, np.ones((frames, 2, 18, 1))], axis=3)
    people[::4, 1, 3:6, 2] = 0  # parts that were not found
    return people.astype(np.float32)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A tiny data set whose pose-flow images are the drawings of its keypoints, without JPEG's losses."""
    root = make_tiny(tmp_path_factory.mktemp("drawn"))
    for folder in (root / "pose_flow").iterdir():
        frames = len(list(folder.iterdir()))
        people = walking_people(("Archery", "Diving", "TaiChi").index(folder.name.split("_")[0]), frames)
        people[3, :, :, 2] = 0
        kept = people[..., 2].any(axis=2)
        numbers = np.repeat(np.arange(1, frames + 1, dtype=np.int32), 2)[kept.ravel()]
        save_keypoints(folder / "keypoints.npz", people[kept], numbers, frames, (120, 160))
        data = load_keypoints(folder / "keypoints.npz")
        for number in range(1, frames + 1):
            image = draw_people(people_of_frame(data, number), (120, 160), 224)
            Image.fromarray(image).save(folder / f"frame{number:06d}.jpg", "PNG")
    return root


def both(root):
    videos = read_split(root / "lists", "04", "classInd15.txt").train
    good, bad = index_frames(root / "pose_flow", videos)
    keypoints, drawn_good, drawn_bad = load_all_keypoints(root / "pose_flow", videos)
    assert good == drawn_good and not bad and not drawn_bad
    return good, partial(keypoint_sample, keypoints=keypoints)


@pytest.mark.parametrize("size", [224, 64])
def test_test_samples_are_those_of_drawn_images(drawn, size):
    videos, sample = both(drawn)
    for video in videos[:3]:
        expected, ours = motion_sample(video, None, size), sample(video, None, size)
        assert torch.equal(expected.index, ours.index)
        assert torch.equal(expected.images, ours.images) and ours.images.any()


@pytest.mark.parametrize("crop", ["random", "zoom"])
def test_training_looks_at_the_same_frames_and_moves_the_body(drawn, crop):
    videos, sample = both(drawn)
    video, mirrored = videos[-1], 0
    data = load_keypoints(f"{video.frames.folder}/keypoints.npz")
    for number in range(20):
        ours = sample(video, random_state(0, number, "x"), 224, crop=crop)
        assert torch.equal(ours.index, motion_sample(video, random_state(0, number, "x"), 224).index)
        start, x, y, scale, angle, flip = random_state(0, number, "x").random(6)
        mirrored += flip < 0.5
        first = 1 + int(start * (data.num_frames - 9))
        # In pixels about the middle of the frame, by complex numbers: mirrored, turned and scaled, then shifted.
        factor, shift = {
            "random": (256 / 224 * 1.1 ** (2 * scale - 1), 256 / 224 - 1),
            "zoom": (1.2 ** (2 * scale - 1), 0.2),
        }[crop]
        factor = factor * np.exp(1j * np.deg2rad(10) * (2 * angle - 1))
        for i, image in enumerate(ours.images):
            people = people_of_frame(data, first + i).copy()
            if flip < 0.5:
                people = people[:, list(MIRROR)]
                people[..., 0] = 1 - people[..., 0]
            pixels = factor * ((people[..., 0] - 0.5) * 160 + 1j * (people[..., 1] - 0.5) * 120)
            people[..., 0] = pixels.real / 160 + 0.5 + (x - 0.5) * shift
            people[..., 1] = pixels.imag / 120 + 0.5 + (y - 0.5) * shift
            difference = image.numpy().astype(int) - draw_people(people, data.frame_size)
            assert (difference != 0).mean() < 0.01  # rounding may move a part by a pixel
    assert 5 <= mirrored <= 15


def test_a_video_without_people_is_black():
    nobody = make_keypoints(np.zeros((0, 18, 3), np.float32), np.zeros(0, np.int32), 12, (48, 64))
    video = IndexedVideo(Video("a", 0, "A", "A/a.avi"), Frames("", 12))
    for generator in (None, random_state(0, 0, "a")):
        sample = keypoint_sample(video, generator, 32, {"a": nobody})
        assert sample.images.shape[1:] == (32, 32, 3) and sample.images.sum() == 0


def test_scripts_train_on_either_and_score_both_alike(drawn, tmp_path):
    options = ("--image-size", 48, "--epochs", 2, "--lr", "2e-3")
    for name, extra in (("images", ()), ("keypoints", ("--from-keypoints",))):
        finished = train_script("motion_pose", drawn, tmp_path / name, *options, *extra, inline=True)
        assert finished.returncode == 0, finished.stderr
        assert list(pd.read_csv(tmp_path / name / "posef_train.csv")["Epoch"]) == [0, 1]
        best = tmp_path / name / "model_best.pth.tar"
        scores = []
        for source in ((), ("--from-keypoints",)):
            arguments = ("--image-size", 48, "--resume", best, "--evaluate", *source)
            finished = train_script("motion_pose", drawn, tmp_path / "test", *arguments, inline=True)
            assert finished.returncode == 0, finished.stderr
            scores.append(load_scores(tmp_path / "test" / "motion_pose_video_preds.pickle"))
        read, drawn_scores = scores
        assert read.keys() == drawn_scores.keys() and np.ptp(list(read.values())) > 0
        for video, score in read.items():
            assert np.array_equal(score, drawn_scores[video])


# ---- the box of the main people ----


def test_the_box_follows_the_main_people_wherever_and_however_large_they_are():
    """The same people in another frame, smaller and elsewhere, give the same pictures; a passer-by changes nothing."""
    people = walking_people(1, 30).reshape(60, 18, 3)
    numbers = np.repeat(np.arange(1, 31, dtype=np.int32), 2)
    near = make_keypoints(people, numbers, 30, (200, 200))
    far = people.copy()
    far[..., :2] = far[..., :2] * (100, 100) / (400, 250) + (0.5, 0.4)
    passing = np.full((2, 18, 3), 0.02, np.float32) * (1, 1, 50)
    far = make_keypoints(np.concatenate((far, passing)), np.append(numbers, (15, 16)), 30, (250, 400))
    cropped = [crop_people(data, people_box(data)) for data in (near, far)]
    for number in range(1, 31):
        one, other = (people_of_frame(data, number)[:2] for data in cropped)
        assert np.allclose(one, other, atol=1e-5)
    low, high = (np.percentile(people[people[..., 2] > 0][:, :2], share, axis=0) for share in (1, 99))
    side = 1.25 * (high - low).max()
    found = cropped[0].keypoints[..., 2] > 0
    expected = (people[..., :2] - (low + high) / 2) / side + 0.5
    assert np.allclose(cropped[0].keypoints[found][:, :2], expected[found], atol=1e-2)
    assert (np.abs(cropped[0].keypoints[found][:, :2] - 0.5) < 0.5).mean() > 0.98
    assert cropped[0].frame_size[0] == cropped[0].frame_size[1] == pytest.approx(200 * side, abs=1)
    nobody = make_keypoints(np.zeros((0, 18, 3), np.float32), np.zeros(0, np.int32), 12, (48, 64))
    assert people_box(nobody).tolist() == [32, 24, 64]


def test_windows_show_the_crop_that_the_network_was_trained_on(drawn):
    """What predict.py makes of found people is what the test reads from disk, for either crop."""
    videos, _ = both(drawn)
    folder = videos[0].frames.folder
    data = load_keypoints(f"{folder}/keypoints.npz")
    people = {number: people_of_frame(data, number) for number in range(1, data.num_frames + 1)}
    window, shown = Window(data.num_frames, people=people, frame_size=data.frame_size), []
    for crop in ("people", "zoom"):
        args = Namespace(data=drawn / "pose_flow", image_size=48, segments=1, from_keypoints=True, crop=crop)
        _, _, sample = MOTION_POSE.find(args, [videos[0].video])
        options = {"from_keypoints": True, "crop": crop}
        stream = trained_stream(MOTION_POSE, options)
        model = Model(torch.nn.Identity(), "resnet18", 48, ["A"], {"options": options})
        ours, theirs = stream.look(window, model, 19), sample(videos[0], None, clips=19)
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.index, theirs.index)
        shown.append(ours.images)
        assert stream.in_box == (crop == "people")
    assert not torch.equal(*shown)


def test_the_crop_of_people_needs_keypoints_and_older_runs_keep_theirs(drawn, tmp_path):
    options = ("--recipe", "modern", "--image-size", 32, "--epochs", 1, "--from-keypoints")
    finished = train_script("motion_pose", drawn, tmp_path, *options, inline=True)
    assert finished.returncode == 0, finished.stderr
    path = tmp_path / "checkpoint.pth.tar"
    checkpoint = load_checkpoint(path)
    assert checkpoint["options"].pop("crop") == "people"
    arguments = ("--resume", path, "--evaluate", "--no-from-keypoints")
    assert_error(train_script("motion_pose", drawn, tmp_path / "t", *arguments, inline=True), "--crop", "keypoints")
    save_checkpoint(path, checkpoint)
    args = parse_options(get_args_parser(), "motion_pose", ["--resume", str(path)], data_options)
    assert args.crop == "random" and not trained_stream(MOTION_POSE, checkpoint["options"]).in_box


def test_missing_and_damaged_keypoints_are_named(own_tiny, tmp_path):
    finished = train_script("motion_pose", own_tiny, tmp_path, "--from-keypoints", inline=True)
    assert_error(finished, "keypoints.npz", "no such file")


# ---- moving the body ----


def random_people(count: int, seed: int = 0) -> np.ndarray:
    """People with parts anywhere, some of them missing."""
    generator = np.random.default_rng(seed)
    people = generator.random((count, 18, 3), np.float32)
    people[..., 2] *= generator.random((count, 18)) < 0.8
    return people


def test_mirroring_exchanges_sides_and_twice_is_nothing():
    people, still = random_people(2), affine_map((240, 320), 1, 0, np.zeros(2))
    once = move_people(people, still, mirror=True)
    assert np.array_equal(once[:, 4, 0], 1 - people[:, 7, 0])  # the wrists
    assert np.array_equal(once[:, 4, 1:], people[:, 7, 1:])
    assert np.allclose(move_people(once, still, mirror=True), people, atol=1e-7)


def test_a_mirrored_body_is_a_mirrored_picture_with_exchanged_colours():
    """Right shin, wrist and eye: seen in a mirror they have the left ones' colours, on the other side."""
    people = np.zeros((1, 18, 3), np.float32)
    for part, x, y in ((9, 80, 60), (10, 80, 120), (4, 140, 120), (14, 180, 40)):
        people[0, part] = x / 224, y / 224, 1
    draw = partial(draw_people, frame_size=(224, 224), short_side=224)  # without resizing
    mirrored = draw(move_people(people, affine_map((224, 224), 1, 0, np.zeros(2)), mirror=True))
    picture, expected = draw(people), np.zeros((224, 224, 3), np.uint8)
    exchanged = {COLORS[right]: COLORS[left] for right, left in ((9, 12), (10, 13), (4, 7), (14, 15))}
    exchanged[LIMB_COLORS[DRAWN_LIMBS.index((9, 10))]] = LIMB_COLORS[DRAWN_LIMBS.index((12, 13))]
    for right, left in exchanged.items():
        expected[(picture == right).all(axis=2)] = left
    assert (expected.any(axis=2) == picture.any(axis=2)).all()
    # A part at x is drawn around pixel x, its mirror image at 224 - x, one to the right of the flipped picture's.
    assert np.array_equal(mirrored[:, 1:], expected[:, ::-1][:, :-1])


def test_no_turn_and_no_scale_is_the_identity():
    people = random_people(3)
    before = people.copy()
    assert np.array_equal(move_people(people, affine_map((120, 340), 1, 0, np.zeros(2))), people)
    move_people(people, affine_map((120, 340), 2, 1, np.ones(2)), mirror=True)
    assert np.array_equal(people, before)


@pytest.mark.parametrize("frame_size", [(240, 320), (320, 240), (100, 100)])
@pytest.mark.parametrize(("scale", "angle", "shift"), [(1.2, 0.3, (0.1, 0)), (0.8, -0.2, (0, -0.2)), (1, 1.5, (0, 0))])
def test_bodies_are_scaled_turned_and_shifted_in_pixels(frame_size, scale, angle, shift):
    people, pixels = random_people(2), np.array(frame_size[::-1])
    moved = move_people(people, affine_map(frame_size, scale, angle, np.array(shift)))
    assert np.array_equal(moved[..., 2], people[..., 2]) and moved.dtype == np.float32
    x, y = np.moveaxis((people[..., :2] - 0.5) * pixels, 2, 0)
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=2)
    assert np.allclose(moved[..., :2], scale * turned / pixels + 0.5 + shift, atol=1e-5)
