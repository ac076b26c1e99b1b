"""Frames beside their poses, for a quick look: a contact sheet, or a clip."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.atomic import atomic_write
from common.frames import FRAME_NAME
from common.images import read_image
from common.video import write_mp4
from pose.draw import draw_people
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame
from pose.pipeline import PoseJob
from pose.tracking import main_paths

COLUMNS, HEIGHT, MAX_WIDTH, GAP, LABEL = 3, 180, 320, 10, 20  # all but the first in pixels
CLIP_SIDE = 320


def choose_frames(num_frames: Sequence[int], count: int) -> list[tuple[int, int]]:
    """At most `count` pairs (video, frame number), spread evenly over videos of these numbers of frames."""
    if len(num_frames) >= count:
        chosen = sorted({int((i + 0.5) * len(num_frames) / count) for i in range(count)})
        return [(video, (num_frames[video] + 1) // 2) for video in chosen]
    shares = [1] * len(num_frames)
    for _ in range(min(count, sum(num_frames)) - len(shares)):
        # The next one goes where the frames of a pair are most.
        shares[max(range(len(shares)), key=lambda video: num_frames[video] / shares[video])] += 1
    numbered = [(video, share, i) for video, share in enumerate(shares) for i in range(share)]
    return [(video, int((i + 0.5) * num_frames[video] / share) + 1) for video, share, i in numbered]


def label_font() -> ImageFont.FreeTypeFont:
    """The font of the labels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 13)


def write_preview(path: Path, videos: Sequence[PoseJob], count: int = 12) -> None:
    """Write a PNG of `count` frames of finished videos, each beside its pose-flow image, with names."""
    keypoints = [load_keypoints(video.poses / FILE_NAME) for video in videos]
    cells = []
    for index, number in choose_frames([data.num_frames for data in keypoints], count):
        video = videos[index]
        people = len(people_of_frame(keypoints[index], number))
        pair = [read_image(folder / FRAME_NAME.format(number)) for folder in (video.frames, video.poses)]
        cells.append((f"{video.name}  {number}  ({people or 'no'} {'person' if people == 1 else 'people'})", pair))
    _write_sheet(path, cells)


def write_chosen_preview(path: Path, videos: Sequence[tuple[str, Keypoints]], main: int, count: int = 12) -> None:
    """Write a PNG of `count` frames of named videos: the people of their `main_paths` in colour, the others in grey.

    Beside each such picture are the `main` people alone, as they are learned from.
    """
    cells = []
    for index, number in choose_frames([data.num_frames for _, data in videos], count):
        name, data = videos[index]
        everyone = people_of_frame(data, number)
        chosen = main_paths(data, main)[:, number - 1]
        chosen = chosen[(chosen[..., 2] > 0).any(axis=1)]
        others, alone = (draw_people(people, data.frame_size) for people in (everyone, chosen))
        grey = np.repeat(others.max(axis=2, keepdims=True) // 3, 3, axis=2)
        pair = [np.where(alone.any(axis=2, keepdims=True), alone, grey), alone]
        pair = [np.asarray(Image.fromarray(image).resize(data.frame_size[::-1])) for image in pair]
        cells.append((f"{name}  {number}  ({len(chosen)} of {len(everyone)})", pair))
    _write_sheet(path, cells)


def _write_sheet(path: Path, cells: Sequence[tuple[str, list[np.ndarray]]]) -> None:
    """A PNG of labels, each above its pair of pictures of one shape or of a picture and a square one."""
    sizes = []
    for _, (frame, _) in cells:
        scale = min(HEIGHT / frame.shape[0], MAX_WIDTH / frame.shape[1])
        sizes.append((max(round(frame.shape[1] * scale), 1), max(round(frame.shape[0] * scale), 1)))
    cell_width = 2 * max(width for width, _ in sizes) + GAP // 2
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (cell_width + GAP) + GAP, rows * (HEIGHT + LABEL + GAP) + GAP), (245, 245, 245))
    draw = ImageDraw.Draw(sheet)
    font = label_font()
    for k, ((label, pair), size) in enumerate(zip(cells, sizes, strict=True)):
        left = GAP + k % columns * (cell_width + GAP)
        top = GAP + k // columns * (HEIGHT + LABEL + GAP)
        while len(label) > 1 and font.getlength(label) > cell_width:
            label = "…" + label[2:]
        draw.text((left, top), label, fill=(20, 20, 20), font=font)
        for image, x in zip(pair, (left, left + size[0] + GAP // 2), strict=True):
            sheet.paste(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), (x, top + LABEL))
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


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
                ImageDraw.Draw(canvas).text((4, 2), f"{video.name}  {number}", fill=(230, 230, 230), font=font)
                images = [read_image(folder / FRAME_NAME.format(number)) for folder in (video.frames, video.poses)]
                height, width = images[0].shape[:2]
                scale = side / max(height, width)
                shown = max(round(width * scale), 1), max(round(height * scale), 1)  # the pose in the frame's shape
                for x, image in zip((0, side), images, strict=True):
                    picture = Image.fromarray(image).resize(shown, Image.Resampling.BILINEAR)
                    canvas.paste(picture, (x + (side - shown[0]) // 2, LABEL + (side - shown[1]) // 2))
                yield canvas

    write_mp4(path, pictures(), rate)
