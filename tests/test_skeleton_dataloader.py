"""Whom the skeleton stream takes, and what it makes of them."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from common.frames import Frames
from dataloader import skeleton_dataloader as skeletons
from dataloader.frame_index import IndexedVideo
from dataloader.names import Video
from dataloader.sampling import random_state
from dataloader.skeleton_dataloader import (
    CHANNELS,
    normalized_paths,
    prepare_skeletons,
    skeleton_clips,
    skeleton_input,
    skeleton_sample,
    take_moments,
)
from fusion.scores import load_scores
from pose.draw import write_chosen_preview
from pose.keypoints import FILE_NAME, load_keypoints, make_keypoints, save_keypoints
from pose.people import main_paths
from pose.skeleton import DRAWN_LIMBS
from tests.helpers import CLASSES, assert_error, train_script

FRAMES = 60


def person(x: float, size: float) -> np.ndarray:
    """A body of all 18 parts, (18, 3), around x."""
    generator = np.random.default_rng(3)
    body = np.ones((18, 3), np.float32)
    body[:, :2] = (x, 0.5) + size * (generator.random((18, 2)) - 0.5)
    return body


def two_people_and_a_ghost(shuffle: int | None = None):
    """A small person all the time, a large one but for 10 frames, and somebody in 2 frames only."""
    found = [(frame, person(0.2, 0.2)) for frame in range(1, FRAMES + 1)]
    found += [(frame, person(0.7 + frame / 1000, 0.5)) for frame in range(1, FRAMES + 1) if not 20 < frame <= 30]
    found += [(frame, person(0.02, 0.15)) for frame in (25, 26)]
    found += [(frame, person(0.9, 0.1)) for frame in range(31, 35)]
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(found)
    frames, bodies = zip(*sorted(found, key=lambda pair: pair[0]), strict=True)
    return make_keypoints(np.stack(bodies), np.array(frames), FRAMES, (240, 320))


def test_people_stay_on_their_paths_and_ghosts_on_none():
    paths, tracks = main_paths(two_people_and_a_ghost(), 2)
    assert paths.shape == (2, FRAMES, 18, 3) and np.array_equal(tracks >= 0, (paths[..., 2] > 0).any(2))
    there = (paths[..., 2] > 0).any(2)
    assert there[1].all() and not there[0, 20:30].any() and there[0].sum() == 50
    assert np.allclose(paths[1], person(0.2, 0.2))
    assert np.allclose(paths[0, 40], person(0.7 + 41 / 1000, 0.5))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_a_frame_does_not_choose(seed):
    assert np.array_equal(main_paths(two_people_and_a_ghost(), 2)[0], main_paths(two_people_and_a_ghost(seed), 2)[0])


@pytest.mark.parametrize("gap", [0, 3])
def test_nobody_is_invented_between_one_who_leaves_and_another_who_appears(gap):
    """One leaves at x = .19, another appears at .85 after `gap` frames; each is lost for two frames: filled."""
    frames = np.array([*range(1, 11), *range(13, 21), *range(21 + gap, 31), *range(33, 41)])
    people = np.stack([person(0.19 if frame <= 20 else 0.85, 0.2) for frame in frames])
    data = make_keypoints(people, frames, 40, (240, 320))
    paths, tracks = main_paths(data, 2)
    there = np.isin(np.arange(1, 41), [*frames, 11, 12, 31, 32])
    assert np.array_equal((paths[0, :, :, 2] > 0).all(1), there) and not paths[1].any()
    expected = np.stack([person(0.19 if frame <= 20 else 0.85, 0.2) for frame in range(1, 41)])
    assert np.allclose(paths[0], expected * there[:, None, None])
    assert set(tracks[0, :20]) == {0} and set(tracks[0, 20 + gap :]) == {1}
    sample = skeleton_clips(normalized_paths(data), 48)
    assert not skeleton_input(sample.images, sample.index)[:, :, 5:9].any()  # neither ever moves


def test_coordinates_do_not_depend_on_place_size_and_shape_of_the_frame():
    data = two_people_and_a_ghost()
    wide = data.keypoints.copy()
    wide[..., 0] = wide[..., 0] * 0.25 + 0.3  # the same people in a picture of four times the width, further right
    other = make_keypoints(wide, data.frame, FRAMES, (240, 1280))
    paths = normalized_paths(data)
    assert np.allclose(normalized_paths(other), paths, atol=1e-3)
    found = paths[..., 2] > 0
    assert np.allclose(np.median(paths[found][:, :2], 0), 0, atol=1e-5)
    assert np.linalg.norm(paths[found][:, :2], axis=1).mean() == pytest.approx(1, abs=1e-4)
    assert not paths[~found].any()
    nobody = make_keypoints(np.zeros((0, 18, 3), np.float32), np.zeros(0, int), 5, (240, 320))
    assert normalized_paths(nobody).shape == (2, 5, 18, 4) and not normalized_paths(nobody).any()


@pytest.mark.parametrize("moments", [32, 48])
@pytest.mark.parametrize("frames", [1, 7, 48, 500])
def test_a_clip_takes_one_frame_of_each_segment(frames, moments):
    path = np.zeros((2, frames, 18, 4), np.float32)
    path[..., 0] = np.arange(1, frames + 1)[:, None]
    taken = skeleton_clips(path, moments, 5).images[:, 0, :, 0, 0].numpy() - 1
    assert taken.shape == (5, moments)
    segments = np.arange(moments) * frames / moments
    assert (taken >= np.floor(segments)).all() and (taken <= np.ceil(segments + frames / moments)).all()
    assert len(np.unique(taken)) == min(frames, 5 * moments)
    part = take_moments(path, moments, np.zeros((1, moments)), 0.25, 0.5)[0, 0, :, 0, 0] - 1
    assert part.min() == frames // 4 and part.max() < 0.75 * frames


def sample(name="a", generator=None, frames=FRAMES):
    paths = {name: normalized_paths(two_people_and_a_ghost())}
    return skeleton_sample(IndexedVideo(Video(name, 0, "c", name), Frames("", frames)), generator, paths, 48)


def test_training_samples_are_random_but_repeatable_and_leave_the_paths_alone():
    paths = {"a": normalized_paths(two_people_and_a_ghost())}
    before = paths["a"].copy()
    draw = partial(skeleton_sample, IndexedVideo(Video("a", 0, "c", "a"), Frames("", FRAMES)), paths=paths, moments=48)
    one, same, other = (draw(random_state(0, epoch, "a")).images for epoch in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == (1, 2, 48, 18, 4)
    assert np.array_equal(paths["a"], before)
    assert not one[one[..., 2] == 0].any()


def test_augmentation_turns_stretches_and_mirrors(monkeypatch):
    monkeypatch.setattr(skeletons, "DROPPED", 0)
    data = two_people_and_a_ghost()
    paths = {"a": normalized_paths(data)}
    video = IndexedVideo(Video("a", 0, "c", "a"), Frames("", FRAMES))
    mirrored = set()
    for epoch in range(12):
        clip = skeleton_sample(video, random_state(0, epoch, "a"), paths, 48).images[0, 1].numpy()
        plain = paths["a"][1, 0]  # this person never moves
        for flip, order in ((1, range(18)), (-1, skeletons.MIRROR)):
            source = np.column_stack((plain[list(order), :2] * (flip, 1), np.ones(18)))
            solution, residual, *_ = np.linalg.lstsq(source, clip[5, :, :2], rcond=None)
            if residual.sum() < 1e-6:
                mirrored.add(flip)
                stretch = np.linalg.svd(solution[:2])[1]
                assert 1 / 1.26 < stretch.min() <= stretch.max() < 1.26 and abs(solution[2]).max() <= 0.2
                break
        else:
            pytest.fail("no affine map")
    assert mirrored == {1, -1}


def test_channels_by_hand():
    clips = torch.from_numpy(np.random.default_rng(0).random((3, 2, 48, 18, 4), np.float32))
    clips[..., 3] = torch.arange(48)[:, None] // 20  # the track
    clips[torch.rand(clips.shape[:4], generator=torch.Generator().manual_seed(0)) < 0.2] = 0
    inputs = skeleton_input(clips, torch.tensor([[2], [0]]))
    assert inputs.shape == (2, 2, CHANNELS, 48, 18)
    parents = {outer: inner for inner, outer in DRAWN_LIMBS}
    clip, generator = clips[2].numpy(), np.random.default_rng(1)

    def bone(who, t, part):
        own, parent = clip[who, t, part], clip[who, t, parents.get(part, part)]
        return own[:2] - parent[:2] if own[2] and parent[2] else None

    for _ in range(300):
        who, t, part = (int(generator.integers(n)) for n in (2, 47, 18))
        now, after, other = clip[who, t, part], clip[who, t + 1, part], clip[1 - who, t, part]
        here, there, goes_on = bone(who, t, part), bone(who, t + 1, part), (t + 1) % 20 > 0
        expected = [
            now[:3],
            here if here is not None else (0, 0),
            after[:2] - now[:2] if now[2] and after[2] and goes_on else (0, 0),
            there - here if here is not None and there is not None and goes_on else (0, 0),
            other[:2] - now[:2] if now[2] and other[2] else (0, 0),
        ]
        assert np.allclose(inputs[0, who, :, t, part].numpy(), np.concatenate(expected), atol=1e-6)
    assert not inputs[:, :, 5:9, -1].any()


# ---- mistakes ----


def test_bad_keypoints_are_named_or_skipped(own_tiny, tmp_path):
    folder = own_tiny / "skeletons" / "Diving_g01_c01"
    data = load_keypoints(folder / FILE_NAME)
    good = {name: np.asarray(value) for name, value in vars(data).items()}
    parts = np.zeros((len(data.frame), 17, 3), np.float32)
    for change, words in (
        ({"keypoints": good["keypoints"] * np.nan}, "not finite"),
        ({"keypoints": parts}, "(P, 18, 3)"),
        ({"frame": good["frame"] + 1000}, "'frame' must be in"),
    ):
        np.savez(folder / FILE_NAME, **(good | change))
        finished = train_script("skeleton", own_tiny, tmp_path, inline=True)
        assert_error(finished, "Diving_g01_c01", words, "--skip-broken")
    finished = train_script("skeleton", own_tiny, tmp_path, "--epochs", 1, "--skip-broken", inline=True)
    assert finished.returncode == 0 and "skipped Diving_g01_c01" in finished.stderr
    finished = train_script("skeleton", own_tiny, tmp_path / "r", "--data", own_tiny / "nowhere", inline=True)
    assert_error(finished, "nowhere", "--data")


def test_videos_without_people_get_one_score(own_tiny, tmp_path):
    for name in ("Diving_g01_c01", "TaiChi_g02_c01", "TaiChi_g03_c01"):
        nobody = np.zeros((0, 18, 3), np.float32), np.zeros(0, int)
        save_keypoints(own_tiny / "skeletons" / name / FILE_NAME, *nobody, 9, (36, 48))
    finished = train_script("skeleton", own_tiny, tmp_path, "--epochs", 1, inline=True)
    assert finished.returncode == 0, finished.stderr
    scores = load_scores(tmp_path / "skeleton_video_preds.pickle")
    assert np.allclose(scores["Diving_g01_c01"], scores["TaiChi_g02_c01"], atol=1e-5)
    assert not np.allclose(scores["Diving_g01_c01"], scores["Diving_g02_c01"], atol=1e-3)


@pytest.mark.parametrize("every", [100, 7])  # nobody but in the first frame, and people who cannot be followed
def test_data_in_which_nobody_is_seen_are_refused(own_tiny, tmp_path, every):
    for path in (own_tiny / "skeletons").glob(f"*/{FILE_NAME}"):
        frame = np.arange(1, 41, every)
        save_keypoints(path, np.full((len(frame), 18, 3), 0.5, np.float32), frame, 40, (36, 48))
    finished = train_script("skeleton", own_tiny, tmp_path, "--epochs", 1, inline=True)
    assert finished.returncode == 2 and "nobody is seen in any of the" in finished.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("**/*.pth.tar"))


def test_people_are_chosen_once_and_anew_when_keypoints_change(own_tiny, monkeypatch):
    root = own_tiny / "skeletons"
    for chosen in root.glob(f"*/{skeletons.CHOSEN_NAME}"):  # by runs of other tests
        chosen.unlink()
    videos = [Video(f"{name}_g03_c01", label, name, f"{name}_g03_c01") for label, name in enumerate(CLASSES)]
    paths = {video.name: normalized_paths(load_keypoints(root / video.name / FILE_NAME)) for video in videos}
    computed = []
    counted = lambda *arguments: computed.append(1) or main_paths(*arguments)  # noqa: E731
    monkeypatch.setattr(skeletons, "main_paths", counted)

    def samples():
        good, bad, draw = prepare_skeletons(root, videos, 48)
        assert not bad
        return [draw(video, generator).images for video in good for generator in (None, random_state(0, 1, "a"))]

    first, second = samples(), samples()
    assert len(computed) == 3 and all(map(torch.equal, first, second))
    direct = [
        skeleton_sample(IndexedVideo(video, Frames("", 0)), generator, paths, 48).images
        for video in videos
        for generator in (None, random_state(0, 1, "a"))
    ]
    assert all(map(torch.equal, first, direct))

    path = root / videos[0].name / FILE_NAME
    data = load_keypoints(path)
    save_keypoints(path, data.keypoints[::-1], data.frame[::-1], data.num_frames, data.frame_size)
    (root / videos[1].name / skeletons.CHOSEN_NAME).write_bytes(b"half of it")
    assert len(samples()) == 6 and len(computed) == 5

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    for chosen in root.glob(f"*/{skeletons.CHOSEN_NAME}"):
        chosen.unlink()
    assert all(map(torch.equal, samples()[2:], first[2:]))


# ---- what can be looked at ----


def test_the_preview_shows_the_chosen_in_colour_and_others_in_grey(tmp_path):
    people = np.stack([person(x, 0.25) * (1, 1, score) for x, score in ((0.2, 1), (0.5, 0.3), (0.8, 1))])
    data = make_keypoints(np.tile(people, (9, 1, 1)), np.repeat(np.arange(1, 10), 3), 9, (100, 200))
    write_chosen_preview(tmp_path / "a.png", [("a", data)], main=2, count=1)
    sheet = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    width = 320  # of a picture of 100x200 on the sheet
    picture, alone = (sheet[30:190, left : left + width] for left in (10, 10 + width + 5))
    colour = [np.ptp(image, axis=2) > 30 for image in (picture, alone)]
    light = [image.max(2) > 30 for image in (picture, alone)]
    middle = slice(int(0.36 * width), int(0.64 * width))
    assert not colour[0][:, middle].any() and light[0][:, middle].any() and not light[1][:, middle].any()
    assert colour[0][:, : middle.start].any() and colour[1][:, middle.stop :].any()


def test_the_script_writes_the_preview_and_trains_nothing(tiny, tmp_path):
    finished = train_script("skeleton", tiny, tmp_path / "r", "--preview", tmp_path / "p.png", inline=True)
    assert finished.returncode == 0 and Image.open(tmp_path / "p.png").width > 300, finished.stderr
    assert not (tmp_path / "r").exists()
