"""The 15 classes: how each moves, where it happens, and how it is seen.

Classes share places on purpose (squats, wall push-ups, lunges, … in halls and homes; golf, archery, pitching on
fields), so that a picture alone does not settle them, and classes share movements (diving and cliff diving,
golf swings and mopping, squats and skiing, wall push-ups and the pushes of tai chi), so that the skeleton
alone does not settle them either. Training and test groups are drawn from the same distribution.
"""
from collections.abc import Callable
from dataclasses import dataclass

from demo_data import acrobatics, drops, movements, places


@dataclass(frozen=True)
class Action:
    """One class of videos."""

    name: str
    number: int  # of the class among UCF101's 101
    move: Callable  # (body, t, rng) -> Pose; a dive takes the height of its edge as well
    places: dict[Callable, float]  # where it happens, and how often
    yaws: tuple[tuple[float, float], ...]  # ranges of the camera's angle, one is drawn per group
    scale: tuple[float, float] = (60.0, 86.0)  # pixels per metre
    follow: float = 0.0  # how much the camera follows the figure
    glide: float = 0.0  # metres per second past the background, at most
    drop: tuple[float, float] | None = None  # metres down to the water
    swimwear: bool = False


FRONT, SIDES = (-0.6, 0.6), ((1.1, 2.0), (-2.0, -1.1))
ANY_FRONT = ((-1.5, 1.5),)
HALL, HOME, PARK, FIELD = places.hall, places.home, places.park, places.field

ACTIONS = (
    Action("Archery", 3, movements.archery, {FIELD: 0.85, PARK: 0.15}, (FRONT, (-0.9, 0.9), (2.5, 3.8))),
    Action("BaseballPitch", 7, movements.pitch, {FIELD: 1.0}, ((-0.9, 0.9), (2.4, 3.9))),
    Action("BodyWeightSquats", 15, movements.squats, {HALL: 0.75, HOME: 0.25}, ANY_FRONT),
    Action("CliffDiving", 22, acrobatics.dive, {drops.cliff: 1.0}, SIDES, (29.0, 40.0), 0.75,
           drop=(4.0, 7.5), swimwear=True),
    Action("Diving", 26, acrobatics.dive, {drops.pool: 1.0}, SIDES, (31.0, 43.0), 0.75,
           drop=(3.0, 6.5), swimwear=True),
    Action("FloorGymnastics", 30, acrobatics.gymnastics, {HALL: 1.0}, ((-0.6, 0.6), *SIDES), (48.0, 68.0), 0.7),
    Action("GolfSwing", 33, movements.golf, {FIELD: 0.85, PARK: 0.15}, ((-0.9, 0.9), *SIDES)),
    Action("JumpingJack", 47, movements.jumping_jack, {PARK: 0.6, HALL: 0.4}, ((-0.9, 0.9), (2.5, 3.8))),
    Action("JumpRope", 48, movements.jump_rope, {HALL: 0.6, PARK: 0.4}, ANY_FRONT),
    Action("Lunges", 52, movements.lunges, {HOME: 0.65, HALL: 0.35}, ANY_FRONT),
    Action("MoppingFloor", 55, movements.mopping, {HOME: 0.75, HALL: 0.25}, ((-0.9, 0.9), *SIDES)),
    Action("PullUps", 70, movements.pull_ups, {PARK: 0.65, HALL: 0.35}, ((-1.0, 1.0), (2.2, 4.0)), (55.0, 76.0)),
    Action("Skiing", 81, movements.skiing, {drops.snow: 1.0}, ANY_FRONT, (55.0, 80.0), glide=2.0),
    Action("TaiChi", 91, movements.tai_chi, {PARK: 0.8, FIELD: 0.2}, ((0.5, 2.0), (-2.0, -0.5))),
    Action("WallPushups", 99, movements.wall_pushups, {HALL: 0.5, HOME: 0.5}, ((0.7, 2.2), (-2.2, -0.7))),
)
