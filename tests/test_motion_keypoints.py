import numpy as np
import pandas as pd
import pytest
import torch

from dataloader.motion_keypoints import KeypointStore, keypoint_sample, prepare_keypoints
from dataloader.motion_pose_dataloader import motion_sample, prepare_pose_flow
from dataloader.sampling import random_state
from dataloader.split_train_test_video import read_split
from dataloader.video_dataset import collate
from fusion.scores import load_scores
from pose.draw import draw_people, save_pose_image
from pose.keypoints import load_keypoints, make_keypoints, people_of_frame, save_keypoints
from tests.helpers import assert_error, make_tiny, train_script
from training.engine import images_on

CPU = torch.device("cpu")


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
    """A tiny data set whose pose-flow images are the drawings of its keypoints."""
    root = make_tiny(tmp_path_factory.mktemp("drawn"))
    for folder in (root / "pose_flow").iterdir():
        frames = len(list(folder.iterdir()))
        people = walking_people(("Archery", "Diving", "TaiChi").index(folder.name.split("_")[0]), frames)
        people[3, :, :, 2] = 0
        kept = people[..., 2].any(axis=2)
        places = np.repeat(np.arange(1, frames + 1, dtype=np.int32), 2)[kept.ravel()]
        save_keypoints(folder / "keypoints.npz", people[kept], places, frames, (120, 160))
        data = load_keypoints(folder / "keypoints.npz")
        for number in range(1, frames + 1):
            image = draw_people(people_of_frame(data, number), (120, 160), 224)
            save_pose_image(folder / f"frame{number:06d}.jpg", image)
    return root


def both(root):
    videos = read_split(root / "lists", "04", "classInd15.txt").train
    good, bad, _ = prepare_pose_flow(root / "pose_flow", videos)
    drawn_good, drawn_bad, sample = prepare_keypoints(root / "pose_flow", videos)
    assert good == drawn_good and not bad and not drawn_bad
    return good, sample


def test_drawn_test_images_are_those_on_disk(drawn):
    videos, sample = both(drawn)
    for video in videos[:3]:
        expected, ours = motion_sample(video, None, 224), sample(video, None, 224)
        assert torch.equal(expected.index, ours.index)
        images = images_on(CPU, ours.images, 224).float()
        assert images.shape == expected.images.shape
        assert (images - expected.images).abs().mean() < 0.2 * expected.images.float().mean()


def test_training_looks_at_the_same_frames_and_moves_the_body(drawn):
    videos, sample = both(drawn)
    video, seen = videos[-1], set()
    still = sample(video, None, 224).images.keypoints
    for number in range(30):
        ours = sample(video, random_state(0, number, "x"), 224)
        assert torch.equal(ours.index, motion_sample(video, random_state(0, number, "x"), 224).index)
        assert all((moved == moved[0]).all() for moved in (ours.images.affine, ours.images.mirror))
        seen.add(bool(ours.images.mirror[0]))
        scale = ours.images.affine[0, :, :2].det().sqrt() / (256 / 224)
        assert 1 / 1.1 - 1e-4 <= scale <= 1.1 + 1e-4
        assert ours.images.keypoints.shape[1:] == still.shape[1:]
    assert seen == {True, False}


def test_store_keeps_places_to_a_hundredth_of_a_pixel():
    people = walking_people(1, 6).reshape(12, 18, 3)
    store = KeypointStore()
    store.add("a", make_keypoints(people[:4], np.array([1, 1, 2, 4], np.int32), 5, (240, 320)))
    store.add("b", make_keypoints(people, np.repeat(np.arange(1, 7), 2).astype(np.int32), 6, (240, 320)))
    store.freeze()
    assert store.nbytes == 16 * (72 + 4)
    for name, frame, rows in (("a", 1, slice(0, 2)), ("a", 3, slice(0, 0)), ("b", 6, slice(10, 12))):
        found = store.people(name, frame)
        assert np.array_equal(found[..., 2] > 0, people[rows][..., 2] > 0)
        assert np.abs(found - people[rows])[people[rows][..., 2] > 0].max(initial=0) < 3e-5


def test_collate_pads_people(drawn):
    videos, sample = both(drawn)
    one, two = sample(videos[0], None, 64), sample(videos[1], None, 64)
    one = one._replace(images=one.images._replace(keypoints=one.images.keypoints[:, :1]))
    batch = collate([(0, one), (1, two)])
    assert batch["images"].keypoints.shape[1] == 2
    images = images_on(CPU, batch["images"], 64)[batch["index"]]
    expected = torch.cat([images_on(CPU, part.images, 64)[part.index] for part in (one, two)])
    assert torch.equal(images, expected)


def test_scripts_train_on_either_and_score_the_other_alike(drawn, tmp_path):
    options = ("--image-size", 48, "--epochs", 4, "--lr", "2e-3")
    for name, extra in (("images", ()), ("keypoints", ("--from-keypoints",))):
        finished = train_script("motion_pose", drawn, tmp_path / name, *options, *extra, inline=True)
        assert finished.returncode == 0, finished.stderr
        assert list(pd.read_csv(tmp_path / name / "posef_train.csv")["Epoch"]) == list(range(4))
        best = tmp_path / name / "model_best.pth.tar"
        scores = []
        for source in ((), ("--from-keypoints",)):
            arguments = ("--image-size", 48, "--resume", best, "--evaluate", *source)
            finished = train_script("motion_pose", drawn, tmp_path / "test", *arguments, inline=True)
            assert finished.returncode == 0, finished.stderr
            scores.append(np.stack(list(load_scores(tmp_path / "test" / "motion_pose_video_preds.pickle").values())))
        read, rendered = scores
        spread = np.ptp(read, axis=1).mean()
        assert np.abs(read - rendered).mean() < 0.2 * spread


def test_missing_and_damaged_keypoints_are_named(own_tiny, tmp_path):
    finished = train_script("motion_pose", own_tiny, tmp_path, "--from-keypoints", inline=True)
    assert_error(finished, "keypoints.npz", "no such file")


def test_sample_of_a_video_without_people():
    store = KeypointStore()
    store.add("a", make_keypoints(np.zeros((0, 18, 3), np.float32), np.zeros(0, np.int32), 12, (48, 64)))
    store.freeze()
    from dataloader.frame_index import IndexedVideo
    from dataloader.names import Video

    video = IndexedVideo(Video("a", 0, "A", "A/a.avi"), "", 12)
    for generator in (None, random_state(0, 0, "a")):
        sample = keypoint_sample(video, generator, 32, store)
        assert images_on(CPU, sample.images, 32).sum() == 0
