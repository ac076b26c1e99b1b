import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pose import main, standing_people
from common.cli import UserError
from pose.draw import draw_people
from pose.render import make_affines, pad_people, render_people, transform_keypoints
from pose.skeleton import MIRROR, NUM_PARTS
from tests.reference_data import REAL_IMAGES, real_pose

REPO = Path(__file__).resolve().parents[1]


def render_one(people, frame_size, **options):
    images = render_people(torch.as_tensor(people)[None], torch.tensor([frame_size]), **options)
    return images[0].permute(1, 2, 0).numpy()


def relative_difference(image, expected):
    return np.abs(image.astype(float) - expected).mean() / expected.mean()


def random_people(rng, count):
    """People with parts anywhere, some of them missing."""
    people = rng.random((count, NUM_PARTS, 3), np.float32)
    people[..., 2] *= rng.random((count, NUM_PARTS)) < 0.8
    return people


@pytest.mark.parametrize("name", REAL_IMAGES)
def test_agrees_with_reference_pictures(name):
    real = real_pose(name)
    assert relative_difference(render_one(real.people, real.frame_size), real.drawing) < 0.07


@settings(max_examples=15, deadline=None)
@given(st.integers(40, 500), st.integers(40, 500), st.sampled_from([64, 224, 256]), st.integers(0, 2**31))
def test_agrees_with_draw_people(height, width, size, seed):
    people = random_people(np.random.default_rng(seed), 2)
    drawn = draw_people(people, (height, width), size)
    assert relative_difference(render_one(people, (height, width), size=size), drawn) < 0.2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_agrees_closely_at_the_usual_size(count):
    people = standing_people(count)
    assert relative_difference(render_one(people, (256, 341)), draw_people(people, (256, 341))) < 0.06


def test_discs_are_the_same_to_the_bit():
    people = random_people(np.random.default_rng(0), 3)
    people[:, 1:, 2] = 0  # noses only, so there are no limbs
    people[..., 2] *= 2
    difference = render_one(people, (240, 320)).astype(int) - draw_people(people, (240, 320))
    assert np.abs(difference).max() <= 1
    assert render_one(people, (240, 320)).any()


def test_people_overwrite_each_other_in_order():
    people = np.zeros((2, NUM_PARTS, 3), np.float32)
    people[0, 9], people[0, 10], people[1, 0] = (0.2, 0.5, 1), (0.8, 0.5, 1), (0.5, 0.5, 1)
    for order in ([0, 1], [1, 0]):
        image, drawn = render_one(people[order], (224, 224)), draw_people(people[order], (224, 224))
        assert np.array_equal(image[112, 112], drawn[112, 112])
        assert np.array_equal(image[112, 60], drawn[112, 60])
    assert not np.array_equal(image[112, 112], render_one(people, (224, 224))[112, 112])


@pytest.mark.parametrize("chunk", [1, 3, 16, None])
def test_a_batch_of_different_frames_equals_one_by_one(chunk):
    rng = np.random.default_rng(0)
    sizes = [(240, 320), (256, 341), (120, 90), (700, 500), (240, 320)]
    batch = [random_people(rng, count) for count in (2, 0, 1, 3, 1)]
    images = render_people(pad_people(batch), torch.tensor(sizes), chunk=chunk)
    assert images.shape == (5, 3, 224, 224) and images.dtype == torch.uint8
    for image, people, size in zip(images, batch, sizes, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), render_one(people, size))


def test_nobody_gives_black():
    assert not render_people(torch.zeros(2, 3, NUM_PARTS, 3), torch.tensor([240, 320])).any()
    assert render_people(torch.zeros(2, 0, NUM_PARTS, 3), (240, 320)).shape == (2, 3, 224, 224)
    assert render_people(torch.zeros(0, 2, NUM_PARTS, 3), (240, 320)).shape == (0, 3, 224, 224)
    assert pad_people([]).shape == (0, 0, NUM_PARTS, 3)
    people = torch.full((1, 1, NUM_PARTS, 3), torch.nan)
    people[..., 2] = 1
    assert not render_people(people, (240, 320)).any()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 99), st.integers(0, 2**31), st.sampled_from([1, 1e9]))
def test_any_place_and_size_can_be_drawn(height, width, size, seed, spread):
    people = random_people(np.random.default_rng(seed), 2)
    people[..., :2] = (people[..., :2] - 0.5) * 3 * spread
    assert render_one(people, (height, width), size=size).shape == (size, size, 3)


@pytest.mark.parametrize("shape", [(2, NUM_PARTS, 3), (1, 2, 17, 3), (1, 2, NUM_PARTS, 2)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        render_people(torch.zeros(shape), (240, 320))
    with pytest.raises(ValueError, match="pixel"):
        render_people(torch.zeros(1, 1, NUM_PARTS, 3), (0, 320))


# ---- moving the body ----


def test_mirror_swaps_sides_and_twice_is_nothing():
    keypoints = torch.from_numpy(random_people(np.random.default_rng(0), 2))[None].repeat(2, 1, 1, 1)
    mirror = torch.tensor([True, False])
    once = transform_keypoints(keypoints, mirror=mirror)
    assert torch.equal(once[1], keypoints[1])
    assert torch.equal(once[0, :, 4, 0], 1 - keypoints[0, :, MIRROR[4], 0])
    assert torch.equal(once[0, :, 4, 1:], keypoints[0, :, MIRROR[4], 1:])
    assert torch.allclose(transform_keypoints(once, mirror=mirror), keypoints)


def test_a_mirrored_person_keeps_right_and_left_colours():
    people = standing_people(1)
    people[0, 4, :2] = 0.1, 0.2  # the right hand raised
    image = render_one(people, (224, 224), mirror=torch.tensor([True]))
    other_side = people.copy()
    other_side[0, :, 0] = 1 - people[0, :, 0]
    flipped = draw_people(other_side[:, list(MIRROR)], (224, 224))
    assert relative_difference(image, flipped) < 0.06
    wrong = draw_people(people, (224, 224))[:, ::-1]
    assert relative_difference(image, wrong) > 0.2


def test_affine_scales_turns_and_shifts_in_pixels():
    sizes = torch.tensor([[240, 320], [320, 240], [100, 100]])
    scale, angle = torch.tensor([1.2, 0.8, 1.0]), torch.tensor([0.3, -0.2, 0.0])
    shift = torch.tensor([[0.1, 0.0], [0.0, -0.2], [0.0, 0.0]])
    keypoints = torch.rand(3, 2, NUM_PARTS, 3, generator=torch.Generator().manual_seed(0))
    moved = transform_keypoints(keypoints, make_affines(sizes, scale, angle, shift))
    assert torch.equal(moved[..., 2], keypoints[..., 2])
    for i, (height, width) in enumerate(sizes.tolist()):
        pixels = (keypoints[i, ..., :2] - 0.5) * torch.tensor([width, height])
        x, y = pixels[..., 0], pixels[..., 1]
        c, s = torch.cos(angle[i]), torch.sin(angle[i])
        turned = torch.stack((c * x - s * y, s * x + c * y), dim=-1) * scale[i] / torch.tensor([width, height])
        assert torch.allclose(moved[i, ..., :2], turned + 0.5 + shift[i], atol=1e-5)


def test_an_affine_in_rendering_equals_one_applied_before():
    people = torch.from_numpy(standing_people(2))[None].repeat(3, 1, 1, 1)
    sizes = torch.tensor([[240, 320]]).expand(3, 2)
    affine = make_affines(sizes, torch.tensor([0.8, 1, 1.3]), torch.tensor([0.1, 0, -0.1]), torch.zeros(3, 2))
    mirror = torch.tensor([True, False, True])
    images = render_people(people, sizes, affine=affine, mirror=mirror)
    assert torch.equal(images, render_people(transform_keypoints(people, affine, mirror), sizes))
    assert torch.equal(images[1], render_people(people, sizes)[1])


# ---- the benchmark ----


def test_the_benchmark_prints_its_table(tmp_path):
    command = [
        sys.executable,
        "benchmarks/pose.py",
        "--repeat",
        "1",
        "--network-repeat",
        "1",
        "--side",
        "64",
        "--expected",
        tmp_path / "none",
    ]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    for what in ("group_people, empty maps", "made-up map 2, 2 found", "draw_people, 1", "render_people", "OpenPose"):
        assert what in done.stdout
    with pytest.raises(UserError, match="--repeat"):
        main(["--repeat", "0"])
