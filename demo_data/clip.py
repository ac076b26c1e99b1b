"""One clip of the demo: who does what where, seen how, and its frames one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from demo_data.classes import Action
from demo_data.drawing import Clothes, draw_figure, draw_prop, random_clothes
from demo_data.figure import Body, Camera, Pose, Trunk, joints, prop_points, random_body, vec
from demo_data.movements import idle_hands, stand
from demo_data.scene import Layout, paint
from pose.skeleton import MIRROR

WIDTH, HEIGHT, RATE = 320, 240, 25
MARGIN = 40  # pixels of background around the view, for a moving camera
MIRRORED = (*MIRROR, 19, 18, 20, 21)


@dataclass
class Figure:
    """A person in the picture: joints (T, 22, 2) in pixels of the background and their nearness (T, 22)."""

    body: Body
    clothes: Clothes
    scale: float
    points: np.ndarray
    near: np.ndarray


@dataclass
class Clip:
    """All that a video shows: background, camera path (T, 2), light (T,), the person, bystanders, props."""

    background: Image.Image
    path: np.ndarray
    light: np.ndarray
    tone: np.ndarray  # (3,), the light's colour
    person: Figure
    bystanders: list[Figure]
    props: list  # of (Prop, points (T, K, 2) in pixels of the background)
    water: int | None

    def parts(self, figure: Figure) -> np.ndarray:
        """The 18 parts of a person in pixels of each frame, (T, 18, 2)."""
        return figure.points[:, :18] - self.path[:, None]


def stage(action: Action, seed: int, group: int, number: int) -> Clip:
    """Set up clip `number` of a group; the same arguments give the same clip."""
    own = np.random.default_rng((seed, action.number, group))
    rng = np.random.default_rng((seed, action.number, group, number))
    body, clothes = random_body(own), random_clothes(own, action.swimwear)
    place = list(action.places)[own.choice(len(action.places), p=list(action.places.values()))]
    low, high = action.yaws[own.integers(len(action.yaws))]
    yaw, tip, size = own.uniform(low, high), own.uniform(0.0, 0.22), own.uniform(*action.size) * HEIGHT / body.height
    mirror, drop = own.uniform() < 0.15, own.uniform(*action.drop) if action.drop else None
    paint_seed = own.integers(2**32)

    frames = 40 + int(41 * rng.uniform() ** 3)
    time = np.arange(frames) / RATE
    camera = Camera(yaw + rng.uniform(-0.15, 0.15), tip, size * rng.uniform(0.94, 1.06))
    pose = action.move(body, time, rng, drop) if action.drop else action.move(body, time, rng)
    points, near = camera.project(_mirror(joints(body, pose), mirror))
    props = [(prop, camera.project(_mirror(prop_points(pose, prop), mirror))[0]) for prop in pose.props]
    if mirror:
        points, near = points[:, MIRRORED], near[:, MIRRORED]

    layout, origin = _layout(action, own, rng, camera, drop)
    drift = _drift(action, rng, camera, time)
    reach = np.abs(drift).max(0).astype(int)
    layout = _widen(layout, reach)
    shift = np.array(origin, float) + reach + drift
    points = points + shift[:, None]
    props = [(prop, spots + shift[:, None]) for prop, spots in props]
    if layout.edge is not None:
        layout = Layout(layout.width, layout.height, layout.ground, tuple(int(c) for c in shift[0]), layout.water)
    background = paint(place, np.random.default_rng(paint_seed), layout)
    person = Figure(body, clothes, camera.scale, points, near)
    path = _path(action, rng, layout, person, MARGIN + reach + drift, time)
    bystanders = [_bystander(own, layout, camera, frames) for _ in range(_crowd(action, own))]
    for figure in bystanders:
        draw_figure(background, figure.points[0], figure.near[0], figure.body, figure.clothes, figure.scale)
    for prop, spots in props:
        if prop.behind:
            draw_prop(ImageDraw.Draw(background), prop, spots[0], camera.scale)
    light = rng.uniform(0.72, 1.18) * (1 + rng.uniform(0, 0.06) * np.sin(rng.uniform(1, 6) * time))
    props = [(prop, spots) for prop, spots in props if not prop.behind]
    return Clip(background, path, light, rng.uniform(0.94, 1.06, 3), person, bystanders, props, layout.water)


def render(clip: Clip) -> Iterator[Image.Image]:
    """The clip's frames, RGB images of 320 × 240."""
    splash = np.random.default_rng(len(clip.path))
    person, wet, entry = clip.person, 0, None
    for i, corner in enumerate(clip.path):
        left, top = (int(c) for c in corner)
        frame = clip.background.crop((left, top, left + WIDTH, top + HEIGHT))
        floor = None if clip.water is None else clip.water - top
        draw_figure(
            frame,
            person.points[i] - (left, top),
            person.near[i],
            person.body,
            person.clothes,
            person.scale,
            [(prop, spots[i] - (left, top)) for prop, spots in clip.props],
            floor,
        )
        if floor is not None and person.points[: i + 1, :18, 1].max() > clip.water:
            entry = entry or person.points[i, 1, 0]
            _splash(ImageDraw.Draw(frame), splash, entry - left, floor, wet)
            wet += 1
        gains = np.clip(np.arange(256) * (clip.light[i] * clip.tone)[:, None], 0, 255).astype(np.uint8)
        yield frame.point(gains.ravel().tolist())


def _mirror(points: np.ndarray, mirror: bool) -> np.ndarray:
    return points * (-1, 1, 1) if mirror else points


def _layout(
    action: Action, own: np.random.Generator, rng: np.random.Generator, camera: Camera, drop: float | None
) -> tuple[Layout, tuple[float, float]]:
    if drop is None:
        ground = MARGIN + own.uniform(203, 226)
        place = (MARGIN + own.uniform(115, 205) + rng.uniform(-20, 20), ground + rng.uniform(-4, 8))
        return Layout(WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN, int(ground)), place
    x, y = MARGIN + (WIDTH * 0.3 if np.sin(camera.yaw) > 0 else WIDTH * 0.7) + own.uniform(-25, 25), MARGIN + 100
    y += own.uniform(0, 30)
    water = int(y + drop * camera.scale)
    edge = (int(x), int(y))
    return Layout(WIDTH + 2 * MARGIN, water + 70 + MARGIN, int(y), edge, water), edge


def _widen(layout: Layout, reach: np.ndarray) -> Layout:
    return Layout(
        layout.width + 2 * reach[0], layout.height + 2 * reach[1], layout.ground + reach[1], layout.edge, layout.water
    )


def _drift(action: Action, rng: np.random.Generator, camera: Camera, time: np.ndarray) -> np.ndarray:
    across, down = rng.uniform(-1, 1) * action.glide, rng.uniform(0, 0.35) * action.glide
    return camera.scale * np.stack([across * time, down * time], -1)


def _path(
    action: Action, rng: np.random.Generator, layout: Layout, person: Figure, start: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Top left corner of the view (T, 2) in the background: it starts at `start`, follows the figure and shakes."""
    view = start
    if action.follow:
        move = person.points[:, 21] - person.points[0, 21]
        window = np.hanning(13) / np.hanning(13).sum()
        smooth = [np.convolve(np.pad(axis, 6, mode="edge"), window, "valid") for axis in move.T]
        view = view + action.follow * np.stack(smooth, -1)
    strength = rng.choice([0.3, 1.5, 4.0], p=[0.4, 0.4, 0.2])
    for hertz in rng.uniform(0.2, 3.5, 4):
        view = view + strength * rng.normal(0, 1, 2) / np.sqrt(hertz) * np.sin(
            2 * np.pi * (hertz * time[:, None] + rng.uniform(0, 1, 2))
        )
    return np.clip(np.rint(view), 0, (layout.width - WIDTH, layout.height - HEIGHT))


def _crowd(action: Action, own: np.random.Generator) -> int:
    return 0 if action.drop else int(own.choice([0, 1, 2], p=[0.7, 0.22, 0.08]))


def _bystander(own: np.random.Generator, layout: Layout, camera: Camera, frames: int) -> Figure:
    body, clothes = random_body(own), random_clothes(own)
    still = np.zeros(1)
    trunk = Trunk(body, vec(0 * still, 0.08 + 0.98 * body.leg, 0))
    pose = Pose(trunk, idle_hands(trunk, body, own), stand(still, 0.22))
    away = own.uniform(0.5, 0.9)
    points, near = Camera(own.uniform(-3, 3), camera.pitch, camera.scale * away).project(joints(body, pose))
    x = own.choice([own.uniform(0.08, 0.3), own.uniform(0.7, 0.92)]) * layout.width
    points = points + (x, layout.ground - 45 * (1 - away))
    return Figure(body, clothes, camera.scale * away, np.repeat(points, frames, 0), np.repeat(near, frames, 0))


def _splash(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: int, age: int) -> None:
    spread, tall = 4 + 3.5 * min(age, 8), 26 - abs(age - 5) * 3.5
    for dx, up, r in rng.uniform((-1, 0, 1), (1, 1, 4), (26 if tall > 0 else 0, 3)):
        cx, cy = x + dx * spread, y - up * tall * (1 - dx * dx)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), (235, 242, 246))
