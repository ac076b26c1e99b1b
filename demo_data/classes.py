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
    size: tuple[float, float] = (0.5, 0.68)  # height of a standing figure as a part of the frame's
    follow: float = 0.0  # how much the camera follows the figure
    glide: float = 0.0  # metres per second past the background, at most
    drop: tuple[float, float] | None = None  # metres down to the water
    swimwear: bool = False


FRONT, SIDES, SLANT = (-0.7, 0.7), ((1.1, 2.0), (-2.0, -1.1)), ((0.3, 1.3), (-1.3, -0.3))
HALL, HOME, PARK, SQUARE = places.hall, places.home, places.park, places.square
FIELD, LINKS = places.field, places.links

ACTIONS = (
    Action("Archery", 3, movements.archery, {FIELD: 1.0}, (FRONT,)),
    Action("BaseballPitch", 7, movements.pitch, {FIELD: 1.0}, (FRONT,)),
    Action("BodyWeightSquats", 15, movements.squats, {HALL: 1.0}, SLANT),
    Action(
        "CliffDiving",
        22,
        acrobatics.dive,
        {drops.cliff: 1.0},
        SIDES,
        (0.24, 0.32),
        0.75,
        drop=(3.5, 6.5),
        swimwear=True,
    ),
    Action("Diving", 26, acrobatics.dive, {drops.pool: 1.0}, SIDES, (0.25, 0.34), 0.75, drop=(3.0, 6.0), swimwear=True),
    Action("FloorGymnastics", 30, acrobatics.gymnastics, {HALL: 1.0}, (FRONT, *SIDES), (0.38, 0.52), 0.7),
    Action("GolfSwing", 33, movements.golf, {LINKS: 1.0}, (FRONT,)),
    Action("JumpingJack", 47, movements.jumping_jack, {PARK: 0.9, HALL: 0.1}, (FRONT,)),
    Action("JumpRope", 48, movements.jump_rope, {HALL: 0.9, PARK: 0.1}, (FRONT,)),
    Action("Lunges", 52, movements.lunges, {HOME: 0.9, HALL: 0.1}, SLANT),
    Action("MoppingFloor", 55, movements.mopping, {HOME: 1.0}, (FRONT,)),
    Action("PullUps", 70, movements.pull_ups, {PARK: 0.85, HALL: 0.15}, (FRONT, (2.4, 3.9)), (0.45, 0.6)),
    Action("Skiing", 81, movements.skiing, {drops.snow: 1.0}, SLANT, (0.45, 0.62), glide=2.0),
    Action("TaiChi", 91, movements.tai_chi, {SQUARE: 0.9, PARK: 0.1}, SIDES),
    Action("WallPushups", 99, movements.wall_pushups, {HOME: 0.85, HALL: 0.15}, SIDES),
)
