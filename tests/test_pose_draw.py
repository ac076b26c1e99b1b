import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.cli import UserError
from common.video import resize_short_side
from pose.draw import draw_people, save_pose_image
from pose.keypoints import load_keypoints, people_of_frame, save_keypoints
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS, LIMBS, MIRROR, NUM_PARTS, PART_NAMES
from tests.reference_data import REAL_IMAGES, real_pose


def single(part, x, y):
    people = np.zeros((1, NUM_PARTS, 3), np.float32)
    people[0, part] = x, y, 1
    return people


def random_people(rng, count):
    people = rng.random((count, NUM_PARTS, 3), np.float32)
    people[..., 2] *= rng.random((count, NUM_PARTS)) < 0.8
    return people


# ---- skeleton ----


def test_mirror_swaps_left_and_right():
    for part, other in enumerate(MIRROR):
        assert MIRROR[other] == part
        swapped = PART_NAMES[part].replace("left", "?").replace("right", "left").replace("?", "right")
        assert PART_NAMES[other] == swapped
    limbs = {frozenset(limb) for limb in LIMBS}
    assert {frozenset(MIRROR[part] for part in limb) for limb in LIMBS} == limbs


# ---- drawing ----


@pytest.mark.parametrize("name", REAL_IMAGES)
def test_drawing_agrees_with_reference_pictures(name):
    real = real_pose(name)
    picture = real.drawing
    drawn = draw_people(real.people, real.frame_size, short_side=min(real.frame_size)).astype(float)
    assert np.abs(drawn - picture).mean() < 0.08 * picture.mean()
    assert np.abs(drawn[:, :, ::-1] - picture).mean() > 0.3 * picture.mean()


def test_a_disc_is_eleven_pixels_across():
    image = draw_people(single(3, 0.5, 0.5), (224, 224), short_side=224)
    mask = (image == COLORS[3]).all(axis=2)
    assert mask.sum() == (image.any(axis=2)).sum()
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (107, 117, 107, 117)
    y, x = np.mgrid[-5:6, -5:6]
    assert np.array_equal(mask[107:118, 107:118], x * x + y * y < 30)


def test_limbs_lie_over_discs_and_later_people_over_earlier():
    people = np.zeros((1, NUM_PARTS, 3), np.float32)
    people[0, 9] = 0.2, 0.5, 1
    people[0, 10] = 0.8, 0.5, 1
    image = draw_people(people, (224, 224), short_side=224)
    color = LIMB_COLORS[DRAWN_LIMBS.index((9, 10))]
    line = (image == color).all(axis=2)
    assert line[110:115, 60:160].all()  # 5 rows
    assert not image[[109, 115], 60:160].any()
    assert line[112, 45] and line[112, 179]  # through the discs to their centres
    both = draw_people(np.concatenate([people, single(0, 0.5, 0.5)]), (224, 224), short_side=224)
    assert tuple(both[112, 112]) == COLORS[0]
    other = draw_people(np.concatenate([single(0, 0.5, 0.5), people]), (224, 224), short_side=224)
    assert tuple(other[112, 112]) == color


def test_the_whole_canvas_resized_gives_the_same_picture():
    rng = np.random.default_rng(0)
    people = random_people(rng, 2)
    people[..., :2] = 0.3 + 0.3 * people[..., :2]
    height, width = 120, 160
    native = draw_people(people, (160, 160), size=160, short_side=160)
    y, x = (np.arange(112) + 0.5) * 160 / 112 - 0.5, (np.arange(112) + 0.5) * 160 / 112 - 0.5
    y0, x0 = np.floor(y).astype(int).clip(0), np.floor(x).astype(int).clip(0)
    wy, wx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    value = native.astype(float)
    rows = value[y0] * (1 - wy) + value[(y0 + 1).clip(0, 159)] * wy
    whole = rows[:, x0] * (1 - wx) + rows[:, (x0 + 1).clip(0, 159)] * wx
    assert np.abs(draw_people(people, (160, 160), size=112, short_side=160) - whole).max() <= 1
    assert draw_people(people, (height, width)).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(1080, 1440), (1080, 1920), (1920, 1080), (1080, 1080)])
def test_strokes_do_not_depend_on_the_size_of_the_frames(size):
    people, frame = random_people(np.random.default_rng(2), 2), np.zeros((*size, 3), np.uint8)
    expected = draw_people(people, resize_short_side(frame, 256).shape[:2])
    for short_side in (64, 240, 480, 1080):
        picture = draw_people(people, resize_short_side(frame, short_side).shape[:2])
        # The long side is a whole number of pixels, so a part may be drawn at the neighbouring one.
        assert np.abs(picture.astype(float) - expected).mean() < 0.15 * expected.mean()
        assert picture.any(axis=2).sum() == pytest.approx(expected.any(axis=2).sum(), rel=0.02)


def test_frames_of_the_canonical_size_are_drawn_as_they_are():
    """A checksum of the pictures drawn before strokes had a size of their own."""
    people = random_people(np.random.default_rng(3), 3)
    people[..., :2] = people[..., :2].round(3)  # exact on every machine
    for size, crc in (((256, 341), 908845918), ((455, 256), 409096192), ((256, 256), 1076678519)):
        picture = draw_people(people, size)
        assert zlib.crc32(picture.tobytes()) == crc
        assert np.array_equal(picture, draw_people(people, size, short_side=min(size)))


def test_nobody_and_absent_parts_give_black():
    assert not draw_people(np.zeros((0, NUM_PARTS, 3), np.float32), (240, 320)).any()
    people = np.random.default_rng(0).random((2, NUM_PARTS, 3), np.float32)
    people[..., 2] = 0
    assert not draw_people(people, (240, 320)).any()
    people[..., 0] = np.nan
    people[..., 2] = 1
    assert not draw_people(people, (240, 320)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 130), st.integers(0, 2**31), st.sampled_from([1, 1e9]))
def test_any_frame_size_and_place_can_be_drawn(height, width, size, seed, spread):
    people = random_people(np.random.default_rng(seed), 2)
    people[..., :2] = (people[..., :2] - 0.5) * 3 * spread
    image = draw_people(people, (height, width), size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_jpeg_keeps_the_colours(tmp_path):
    image = draw_people(random_people(np.random.default_rng(1), 2), (240, 320))
    save_pose_image(tmp_path / "pose.jpg", image)
    stream = io.BytesIO()
    save_pose_image(stream, image)
    assert (tmp_path / "pose.jpg").read_bytes() == stream.getvalue()
    read = np.asarray(Image.open(tmp_path / "pose.jpg"))
    assert np.abs(read.astype(float) - image).mean() < 0.08 * image.mean()


# ---- keypoint files ----


def sample(frames=5, count=7, seed=0):
    rng = np.random.default_rng(seed)
    return random_people(rng, count), rng.integers(1, frames + 1, count).astype(np.int32), frames, (240, 320)


def test_keypoints_round_trip(tmp_path):
    keypoints, frame, num_frames, frame_size = sample()
    save_keypoints(tmp_path / "deep" / "keypoints.npz", keypoints, frame, num_frames, frame_size)
    read = load_keypoints(tmp_path / "deep" / "keypoints.npz")
    assert (read.num_frames, read.frame_size) == (num_frames, frame_size)
    assert read.keypoints.dtype == np.float32 and read.frame.dtype == np.int32
    for i in range(num_frames + 2):
        assert np.array_equal(people_of_frame(read, i), keypoints[frame == i])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["keypoints.npz"]


def changed(**changes):
    keypoints, frame, num_frames, frame_size = sample()
    data = {"keypoints": keypoints, "frame": frame, "num_frames": np.int64(num_frames), "frame_size": frame_size}
    data.update(changes)
    return {name: value for name, value in data.items() if value is not None}


def with_value(value, index=0, score=1):
    keypoints = sample()[0]
    keypoints[0, 0] = 0.5, 0.5, score
    keypoints[0, 0, index] = value
    return keypoints


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"keypoints": None}, "keypoints is not a file in the archive"),
        ({"keypoints": np.zeros((7, 17, 3), np.float32)}, "'keypoints' is float32"),
        ({"keypoints": np.zeros((7, 18, 3), object)}, "pickle"),
        ({"keypoints": with_value(np.nan)}, "not finite"),
        ({"keypoints": with_value(-0.5, 2)}, "negative"),
        ({"keypoints": with_value(160.0)}, "not in pixels"),
        ({"frame": np.ones(6, np.int32)}, "'frame' is int32"),
        ({"frame": np.zeros(7, np.int32)}, "1..5"),
        ({"num_frames": np.int64(0)}, "num_frames"),
        ({"num_frames": np.float32(5)}, "num_frames"),
        ({"frame_size": np.array([240, 10**6])}, "frame_size"),
    ],
)
def test_bad_keypoints_are_named(tmp_path, changes, reason):
    path = tmp_path / "keypoints.npz"
    np.savez(path, **changed(**changes))
    with pytest.raises(UserError, match=reason) as caught:
        load_keypoints(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "keypoints.npz"
    with pytest.raises(UserError, match="no such file"):
        load_keypoints(path)
    with pytest.raises(UserError, match="directory"):
        load_keypoints(tmp_path)
    save_keypoints(path, *sample())
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2], b"\x93NUMPY" + whole):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"keypoints\.npz"):
            load_keypoints(path)
    for position in range(0, len(whole), 7):  # a changed byte is refused or harmless, never a crash
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            load_keypoints(path)
        except UserError as error:
            assert str(path) in str(error)


def test_saving_refuses_what_loading_would(tmp_path):
    keypoints, frame, num_frames, frame_size = sample()
    with pytest.raises(ValueError, match="frame"):
        save_keypoints(tmp_path / "k.npz", keypoints, frame + 5, num_frames, frame_size)
    assert not list(tmp_path.iterdir())
