"""Pictures of a result: the video with skeletons and the best classes on it, and which parts spoke for a class."""

import contextlib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageDraw

from common.contact_sheet import fit, font_of
from common.records import FrameSettings
from common.video import frames_of, rate_of, write_mp4
from dataloader.skeleton_dataloader import PEOPLE, normalized_paths, skeleton_clips, skeleton_input
from fusion.plots import printable, write_png
from network import Model
from pose.graph_network import moments_of
from pose.keypoints import Keypoints
from pose.people import main_paths
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS, PART_NAMES
from prediction.classify import top_classes

SHORT_SIDE = (480, 1080)  # of the picture: smaller videos are enlarged, larger ones reduced
LONG_SIDE = 1920
MIN_WIDTH = 320
BACKGROUND, TRACK, TEXT = (22, 24, 28), (58, 62, 70), (240, 240, 240)
BEST, OTHERS, STREAM, NOTE = (76, 175, 110), (104, 126, 166), (150, 150, 150), (255, 200, 90)
# Of people: Okabe and Ito's, which the colour-blind tell apart, and two more; grey those who are not numbered.
PEOPLE_COLORS = "#e69f00 #56b4e9 #009e73 #f0e442 #0072b2 #d55e00 #cc79a7 #ffffff #9467bd #8c564b".split()
UNNUMBERED = "#808080"
SHOWN, MARGIN = 8, 0.1  # frames in the picture of parts; space around people, of the frame


class Head(NamedTuple):
    """What stands at the head of a `person` (18, 3): number, from 1, and text; without a number nothing."""

    person: np.ndarray
    number: int = 0
    text: str = ""


class Bars(NamedTuple):
    """What the panel below the frames shows.

    `top` are class names with their fused probabilities, best first; `streams` each stream's probabilities of these
    classes; `notes` lines of text. The best one is green if it is what is `answered`.
    """

    top: Sequence[tuple[str, float]]
    streams: Mapping[str, Sequence[float]] = {}
    notes: Sequence[str] = ()
    answered: bool = True


def bars_of(result: dict, count: int) -> Bars:
    """What an overlay shows of a `describe`d result: the most probable classes, fused and of each stream, and notes."""
    top, streams = top_classes(result["fused"], count), result["streams"] if len(result["streams"]) > 1 else {}
    each = {stream: [scores["probabilities"][name] for name, _ in top] for stream, scores in streams.items()}
    return Bars(top, each, result["notes"], result["answer"] is not None)


def write_overlay(
    path: Path, video: Path, people: Mapping[int, np.ndarray], bars: Iterable[Bars], settings: FrameSettings
) -> None:
    """Encode a video's frames, made with these settings, with skeletons and a panel of classes as MP4.

    `people` maps the number of a frame, from 1, to its people (P, 18, 3); `bars` are what each panel shows,
    which must be of one height for all.
    """

    def pictures(frames: Iterable[np.ndarray]) -> Iterator[Image.Image]:
        drawn = None
        for number, (frame, shown) in enumerate(zip(frames, bars, strict=False), 1):
            if number == 1:
                size = picture_size(*frame.shape[:2])
            if shown is not drawn:  # following frames mostly share their panel
                drawn, panel = shown, draw_panel(shown, max(size[0], MIN_WIDTH))
            yield compose(frame, people.get(number, ()), panel, size)

    _encode(path, video, settings, pictures)


def _encode(
    path: Path, video: Path, settings: FrameSettings, pictures: Callable[[Iterable[np.ndarray]], Iterator[Image.Image]]
) -> None:
    """Write what is made of a video's frames, of the file's own size."""
    with contextlib.closing(frames_of(video, replace(settings, short_side=None))) as frames:
        write_mp4(path, pictures(frames), rate_of(video, settings))


def picture_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) at which a frame is shown."""
    short, long = sorted((height, width))
    scale = min(min(max(short, SHORT_SIDE[0]), SHORT_SIDE[1]) / short, LONG_SIDE / long)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def compose(frame: np.ndarray, people: Iterable[np.ndarray], panel: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A frame at `size` with its people's skeletons, the panel below; both sides of the result are even."""
    picture = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
    draw_skeletons(picture, people)
    width, height = max(size[0], panel.width), size[1] + panel.height
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    canvas.paste(picture, ((width - size[0]) // 2, 0))
    canvas.paste(panel, ((width - panel.width) // 2, size[1]))
    return canvas


def draw_skeletons(picture: Image.Image, people: Iterable[np.ndarray], color: str | None = None) -> None:
    """Draw limbs and parts of people (P, 18, 3) onto `picture`, in one colour or those of the pose-flow images."""
    draw = ImageDraw.Draw(picture)
    line = max(round(min(picture.size) / 120), 2)
    for person in people:
        points = (person[:, :2].astype(float) * picture.size).tolist()
        found = (person[:, 2] > 0) & np.isfinite(person).all(axis=1)
        for rim in (1, 0):  # a dark rim keeps them visible on any ground
            for (first, second), of_limb in zip(DRAWN_LIMBS, LIMB_COLORS, strict=True):
                if found[first] and found[second]:
                    ends = (*points[first], *points[second])
                    draw.line(ends, fill=(0, 0, 0) if rim else color or of_limb, width=line + 2 * rim)
        for (x, y), of_part, here in zip(points, COLORS, found, strict=True):
            if here:
                draw.ellipse((x - line, y - line, x + line, y + line), fill=color or of_part, outline=(0, 0, 0))


# ---- people with numbers ----


def write_people_overlay(path: Path, video: Path, heads: Mapping[int, Sequence[Head]], settings: FrameSettings) -> None:
    """Encode a video's frames, made with these settings, as MP4 with the heads of each, by its number from 1."""

    def pictures(frames: Iterable[np.ndarray]) -> Iterator[Image.Image]:
        return (draw_heads(frame, heads.get(number, ())) for number, frame in enumerate(frames, 1))

    _encode(path, video, settings, pictures)


def draw_heads(frame: np.ndarray, heads: Sequence[Head]) -> Image.Image:
    """A frame in the size of the overlay with skeletons, number and text at each head, each person in a colour.

    A label stands above the head, or as far above or below it as it takes to cover no other label. Both sides are even.
    """
    width, height = (side - side % 2 for side in picture_size(*frame.shape[:2]))
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    colors = [PEOPLE_COLORS[(head.number - 1) % len(PEOPLE_COLORS)] if head.number else UNNUMBERED for head in heads]
    for head, color in zip(heads, colors, strict=True):
        draw_skeletons(picture, [head.person], color)
    draw, size, taken = ImageDraw.Draw(picture), max(min(width, height) // 28, 13), []
    row = size + size // 2
    for head, color in sorted(zip(heads, colors, strict=True), key=lambda pair: pair[0].number):
        found = head.person[head.person[:, 2] > 0][:, :2]
        if not head.number or not len(found):
            continue
        text, font = fit(f"{head.number} {head.text}", size, width // 2)
        wide, top = round(font.getlength(text)) + size, found[:, 1].min() * height - row - size // 2
        left = min(max(found[found[:, 1].argmin(), 0] * width - wide / 2, 0), width - wide)
        tops = (
            min(max(top + step * row, 0), height - row) for count in range(height // row) for step in (-count, count)
        )
        boxes = [(left, place, left + wide, place + row) for place in tops]
        box = next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])
        taken.append(box)
        draw.rectangle(box, color, (0, 0, 0))
        ink = (0, 0, 0) if sum(ImageColor.getrgb(color)) > 330 else (255, 255, 255)
        draw.text((box[0] + size / 2, (box[1] + box[3]) / 2), text, ink, font, anchor="lm")
    return picture


def _overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# ---- the panel of classes ----


def draw_panel(bars: Bars, width: int) -> Image.Image:
    """A row for each class: its name, a bar whose length is its probability, that in percent; lower ones for streams.

    Below them stand the notes.
    """
    row = min(max(width // 20, 24), 44)
    low, margin, large, small = row // 2, row // 3, round(row * 0.58), round(row * 0.4)
    rows: list[tuple] = []  # height, size of the text, name, probability, colours of the text and of the bar
    for i, (name, probability) in enumerate(bars.top):
        rows.append((row, large, name, probability, TEXT, BEST if bars.answered and not i else OTHERS))
        rows += [(low, small, name, values[i], STREAM, STREAM) for name, values in bars.streams.items()]
    columns = int((width - 2 * margin) / font_of("", small).getlength("0"))
    notes = [line for note in bars.notes for line in textwrap.wrap(note.replace(" %", "\xa0%"), columns) or [""]]
    height = 2 * margin + sum(height for height, *_ in rows) + low * len(notes)
    panel = Image.new("RGB", (width, height), BACKGROUND)
    draw, top = ImageDraw.Draw(panel), margin
    names = [fit(name, size, width // 2) for _, size, name, *_ in rows]
    left = 2 * margin + max((round(font.getlength(text)) for text, font in names), default=0)
    right = width - 2 * margin - round(font_of("", large).getlength("100.0 %"))
    for (height, size, _, probability, color, bar), (name, font) in zip(rows, names, strict=True):
        middle, half = top + height // 2, height * 3 // 10
        draw.text((margin, middle), name, color, font, anchor="lm")
        draw.rectangle((left, middle - half, right, middle + half), TRACK)
        if filled := round((right - left + 1) * probability):
            draw.rectangle((left, middle - half, left + filled - 1, middle + half), bar)
        draw.text((width - margin, middle), f"{100 * probability:.1f} %", color, font_of("", size), anchor="rm")
        top += height
    for note in notes:
        line, font = fit(note.replace("\xa0", " "), small, width - 2 * margin)
        draw.text((margin, top + low // 2), line, NOTE, font, anchor="lm")
        top += low
    return panel


# ---- the picture of parts ----


def part_relevance(model: Model, keypoints: Keypoints, label: int) -> np.ndarray:
    """What each part at each moment says for the class `label` rather than others: float32 (people, T, 18).

    The gradient times the network's input (arXiv 1605.01713) of the class's logit above the mean of all classes' (what
    all share tells them not apart), summed over the channels of a part and over the clips of the test.
    """
    sample = skeleton_clips(normalized_paths(keypoints), moments_of(model.arch))
    inputs = skeleton_input(sample.images, sample.index).to(model.device).requires_grad_()
    logits = model.network(inputs).mean(0)
    (gradient,) = torch.autograd.grad(logits[label] - logits.mean(), inputs)
    return (gradient * inputs).detach().sum((0, 2)).cpu().numpy()


def write_parts(path: Path, video: Path, keypoints: Keypoints, model: Model, label: int, frames: FrameSettings) -> None:
    """Write a PNG of `part_relevance`: 8 frames of the video with the chosen people, a map of parts over time.

    Red parts spoke for the class, blue ones against it; the larger a disc, the more. The frames are cut to where people
    are. The map sums over people; its dotted lines are the frames.
    """
    relevance, people = part_relevance(model, keypoints, label), main_paths(keypoints, PEOPLE)[0]
    total, num_frames = relevance.sum(0), keypoints.num_frames
    limit = max(np.abs(total).max(), 1e-9)
    colors = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    middles = (np.arange(SHOWN) + 0.5) / SHOWN
    shown = ((middles * count).astype(int) for count in (num_frames, relevance.shape[1]))
    moments = {number + 1: moment for number, moment in zip(*shown, strict=True)}
    pictures = frames_of(video, replace(frames, short_side=None), wanted=moments)
    figure = Figure(figsize=(13, 12), layout="constrained")
    figure.suptitle(printable(f"what spoke for {model.classes[label]}, {video.name}", 100), fontsize=13)
    above, below = figure.subfigures(2, 1, height_ratios=(6, 5))  # type: ignore[misc]  # two of them
    places = people[people[..., 2] > 0][:, :2]
    (left, top), (right, bottom) = (places.min(0) - MARGIN).clip(0), (places.max(0) + MARGIN).clip(max=1)
    for axes in (grid := above.subplots(2, SHOWN // 2)).flat:
        axes.axis("off")
    for axes, picture, (number, moment) in zip(grid.flat, pictures, moments.items(), strict=False):
        axes.imshow(picture, alpha=0.6, extent=(0, 1, 1, 0), aspect=picture.shape[0] / picture.shape[1])
        axes.set(title=f"frame {number}", xlim=(left, right), ylim=(bottom, top))
        for person, values in zip(people[:, number - 1], relevance[:, moment], strict=True):
            x, y, found = person[:, 0], person[:, 1], person[:, 2] > 0
            for ends in map(list, DRAWN_LIMBS):
                if found[ends].all():
                    axes.plot(x[ends], y[ends], color="0.2", linewidth=1.5)
            sizes = 12 + 300 * np.abs(values[found]) / limit
            axes.scatter(x[found], y[found], sizes, values[found], zorder=3, edgecolors="0.2", linewidths=0.7, **colors)
    over_time = below.subplots()
    extent = (0.5, num_frames + 0.5, len(PART_NAMES) - 0.5, -0.5)
    image = over_time.imshow(total.T, aspect="auto", interpolation="nearest", extent=extent, **colors)
    over_time.set_yticks(range(len(PART_NAMES)), PART_NAMES, fontsize=9)
    over_time.set(xlabel="frame")
    for number in moments:
        over_time.axvline(number, color="0.4", linewidth=0.8, linestyle=":")
    below.colorbar(image, label="share of the class's logit (gradient × input)\n← against it        for it →")
    write_png(figure, path)
