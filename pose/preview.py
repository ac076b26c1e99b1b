"""Frames beside their poses, for a quick look: a contact sheet, or a clip."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.contact_sheet import LABEL, choose_frames, label_font, write_sheet
from common.frames import FRAME_NAME, read_image
from common.video import write_mp4
from pose.draw import draw_people
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame
from pose.people import main_paths
from pose.pipeline import PoseJob

CLIP_SIDE = 320  # pixels


def write_preview(path: Path, videos: Sequence[PoseJob], count: int = 12) -> None:
    """Write a PNG of `count` frames of finished videos, each beside its pose-flow image, with names."""
    keypoints = [load_keypoints(video.poses / FILE_NAME) for video in videos]
    cells = []
    for index, number in choose_frames([data.num_frames for data in keypoints], count):
        video = videos[index]
        people = len(people_of_frame(keypoints[index], number))
        pair = [read_image(folder / FRAME_NAME.format(number)) for folder in (video.frames, video.poses)]
        cells.append((f"{video.name}, frame {number}, {people or 'no'} {'person' if people == 1 else 'people'}", pair))
    write_sheet(path, cells)


def write_chosen_preview(path: Path, videos: Sequence[tuple[str, Keypoints]], main: int, count: int = 12) -> None:
    """Write a PNG of `count` frames of named videos: the people of their `main_paths` in colour, the others in grey.

    Beside each such picture are the `main` people alone, as they are learned from.
    """
    cells = []
    for index, number in choose_frames([data.num_frames for _, data in videos], count):
        name, data = videos[index]
        everyone = people_of_frame(data, number)
        chosen = main_paths(data, main)[0][:, number - 1]
        chosen = chosen[(chosen[..., 2] > 0).any(axis=1)]
        others, alone = (draw_people(people, data.frame_size) for people in (everyone, chosen))
        grey = np.repeat(others.max(axis=2, keepdims=True) // 3, 3, axis=2)
        pair = [np.where(alone.any(axis=2, keepdims=True), alone, grey), alone]
        pair = [np.asarray(Image.fromarray(image).resize(data.frame_size[::-1])) for image in pair]
        cells.append((f"{name}, frame {number}: all {len(everyone)} found | {len(chosen)} chosen", pair))
    write_sheet(path, cells)


def write_clip(path: Path, videos: Sequence[PoseJob], rate: Fraction, count: int = 5, seconds: int = 2) -> None:
    """Write an MP4 of the middle `seconds` of up to `count` finished videos, each frame beside its pose-flow image.

    `rate`: the frames per second of the videos' frames. Raises `UserError` as `write_mp4` does.
    """
    chosen = [videos[(2 * i + 1) * len(videos) // (2 * count)] for i in range(count)] if len(videos) > count else videos
    size, side = (2 * CLIP_SIDE, CLIP_SIDE + LABEL), CLIP_SIDE
    font = label_font()

    def pictures() -> Iterator[Image.Image]:
        for video in chosen:
            num_frames = load_keypoints(video.poses / FILE_NAME).num_frames
            length = min(num_frames, max(round(seconds * rate), 1))
            first = (num_frames - length) // 2 + 1
            for number in range(first, first + length):
                canvas = Image.new("RGB", size, (24, 24, 24))
                ImageDraw.Draw(canvas).text((4, 2), f"{video.name}, frame {number}", fill=(230, 230, 230), font=font)
                images = [read_image(folder / FRAME_NAME.format(number)) for folder in (video.frames, video.poses)]
                height, width = images[0].shape[:2]
                scale = side / max(height, width)
                shown = max(round(width * scale), 1), max(round(height * scale), 1)  # the pose in the frame's shape
                for x, image in zip((0, side), images, strict=True):
                    picture = Image.fromarray(image).resize(shown, Image.Resampling.BILINEAR)
                    canvas.paste(picture, (x + (side - shown[0]) // 2, LABEL + (side - shown[1]) // 2))
                yield canvas

    write_mp4(path, pictures(), rate)
