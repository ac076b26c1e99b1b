"""Samples of the flow stream: stacks, channels, mirror images, and what is wrong with data."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.frames import BrokenImage, Frames
from common.optical_flow import encode_flow
from common.records import write_record
from dataloader.flow_dataloader import flow_sample, mirror, prepare_flow
from dataloader.frame_index import IndexedVideo
from dataloader.names import Video
from dataloader.sampling import random_state, segment_starts, stack_indices
from dataloader.sampling import test_starts as starts_of
from tests.helpers import assert_error, decode_flow, train_script
from training.streams import FLOW
from utils import load_checkpoint

VIDEO = Video("Archery_g03_c01", 0, "Archery", "Archery/v_Archery_g03_c01.avi")


def numbered(video, number):
    """The number of the frame in u, that number + 100 in v."""
    return np.stack([np.full((40, 50), number), np.full((40, 50), number + 100)], 2).astype(np.uint8)


def test_channels_are_u_and_v_in_turns():
    sample = flow_sample(IndexedVideo(VIDEO, Frames("", 60)), None, 32, numbered)
    stacks = FLOW.to_input(sample.images, sample.index)
    assert stacks.shape == (19, 20, 32, 32) and stacks.dtype == torch.float32
    for stack, start in zip(stacks, starts_of(60), strict=True):
        expected = np.array([value for i in range(start, start + 10) for value in (i, i + 100)])
        assert np.allclose(stack[:, 5, 7], (expected / 255 - 0.5) * 2, atol=1e-6)


def test_training_takes_random_stacks_and_mirrors_half():
    mirrored = 0
    for epoch in range(40):
        sample = flow_sample(IndexedVideo(VIDEO, Frames("", 60)), random_state(0, epoch, "a"), 32, numbered, segments=2)
        starts = segment_starts(60, random_state(0, epoch, "a").random(5)[:2])
        frames = np.array([frame for start in starts for frame in stack_indices(start, 60)])
        assert sample.images.shape == (20, 32, 32, 2) and sample.index.tolist() == np.arange(20).reshape(2, 10).tolist()
        u, v = sample.images[:, 0, 0].numpy().T
        assert (v == frames + 100).all()
        assert (u == frames).all() or (u == 255 - frames).all()
        mirrored += (u != frames).all()
    assert 10 <= mirrored <= 30


def test_a_mirrored_video_moves_the_other_way():
    flow = np.random.default_rng(0).uniform(-25, 25, (8, 9, 2))
    ours = mirror(torch.from_numpy(encode_flow(flow)))
    theirs = encode_flow(flow[:, ::-1] * (-1, 1))
    assert np.abs(decode_flow(ours.numpy()) - decode_flow(theirs)).max() <= 40 / 255 + 1e-5
    still = mirror(torch.full((1, 1, 2), 128, dtype=torch.uint8))
    assert still.tolist() == [[[127, 128]]]  # as far from 0 on the other side: 127.5 would be 0
    turned = mirror(mirror(torch.from_numpy(encode_flow(flow))))
    assert np.array_equal(turned, encode_flow(flow))


def test_all_images_of_a_stack_are_cropped_alike():
    def read(video, number):
        return np.random.default_rng(0).integers(0, 255, (40, 50, 2), np.uint8)

    sample = flow_sample(IndexedVideo(VIDEO, Frames("", 30)), random_state(0, 0), 32, read)
    assert all(torch.equal(image, sample.images[0]) for image in sample.images)


def test_what_is_wrong_is_named(own_tiny, tmp_path):
    root = own_tiny / "flow"
    folder = "v_Archery_g03_c01"
    good, bad, sample = prepare_flow(root, [VIDEO])
    assert len(good) == 1 and not bad and sample(good[0], None, image_size=32).images.shape[1:] == (32, 32, 2)
    (root / "v" / folder / "frame000014.jpg").unlink()
    assert "14 images of u, 13 of v" in prepare_flow(root, [VIDEO])[1][0][1]
    shutil.rmtree(root / "v" / folder)
    good, bad, _ = prepare_flow(root, [VIDEO])
    assert not good and f"below {root / 'v'}" in bad[0][1]
    shutil.copytree(root / "u" / folder, root / "v" / folder)
    Image.new("L", (20, 20)).save(root / "v" / folder / "frame000001.jpg")
    with pytest.raises(BrokenImage, match="u and v differ in size"):
        sample(prepare_flow(root, [VIDEO])[0][0], None, image_size=32)
    shutil.rmtree(root / "v")
    finished = train_script("flow", own_tiny, tmp_path / "record", inline=True)
    assert_error(finished, "v: no such folder", "extract_flow.py")


def test_the_checkpoint_keeps_the_method(own_tiny, tmp_path):
    def note(method):
        for folder in (own_tiny / "flow" / "u").iterdir():
            write_record(folder, {"flow": {"method": method}})

    note("dis")
    assert train_script("flow", own_tiny, tmp_path, "--epochs", 1, inline=True).returncode == 0
    checkpoint = tmp_path / "checkpoint.pth.tar"
    assert load_checkpoint(checkpoint)["options"]["flow_method"] == "dis"
    note("farneback")
    finished = train_script("flow", own_tiny, tmp_path, "--resume", checkpoint, "--epochs", 2, inline=True)
    assert finished.returncode == 0 and "flow_method farneback" in finished.stdout.splitlines()[0]
    assert load_checkpoint(checkpoint)["options"]["flow_method"] == "farneback"
