"""Movements through the air: dives from a platform or a cliff, and floor gymnastics."""

import numpy as np

from demo_data.figure import ANKLE, Body, Pose, Trunk, vec
from demo_data.movements import keys, wave

GRAVITY = 9.81


def dive(body: Body, t: np.ndarray, rng: np.random.Generator, height: float) -> Pose:
    """Jump off an edge and turn, tucked or piked, into the water `height` metres below.

    The figure's origin is the edge; it goes forward and down, hands first.
    """
    leap, away = rng.uniform(1.5, 3.0), rng.uniform(0.8, 1.5)
    takeoff = rng.uniform(0.3, 0.8)
    air = (leap + np.sqrt(leap**2 + 2 * GRAVITY * (height + 0.3))) / GRAVITY
    u = t - takeoff
    flying = np.clip(u, 0, None)
    turns = (rng.integers(0, 3) + 0.48) * 2 * np.pi
    spin = turns * np.clip((flying / air - 0.08) / 0.84, 0, 1)
    tuck = keys(u / air, [0.05, 0.22, 0.62, 0.86], [0, 1, 1, 0]) * rng.choice([0.0, 0.6, 1.0], p=[0.25, 0.3, 0.45])
    bend = keys(t, [takeoff - 0.45, takeoff - 0.18, takeoff], [0, 0.3, 0]) * (u < 0)
    lean = 0.1 + 0.5 * bend + 1.2 * tuck
    centre = vec(0, ANKLE + body.leg * (0.98 - bend), 0.03)
    trunk = Trunk(body, centre, lean)
    arms = 2.6 * np.where(u < 0, np.clip(1 + u / 0.3, 0.1, 1), 1) * (1 - 0.75 * tuck)
    hands = tuple(
        trunk.at(side, 0.06, -0.95 * body.arm * np.cos(arms), 0.95 * body.arm * np.sin(arms)) for side in (0, 1)
    )
    knees = rng.choice([0.35, 0.95])  # how far a tuck bends the knees; a pike leaves them straighter
    drawn = vec(0, -body.leg * (0.98 - 0.75 * tuck * knees - 0.4 * tuck), body.leg * 0.75 * tuck)
    feet = tuple(
        np.where((u < 0)[:, None], vec(sign * 0.07, ANKLE, 0.0), centre + drawn + vec(sign * 0.06, 0, 0))
        for sign in (-1, 1)
    )
    travel = vec(0, leap * flying - 0.5 * GRAVITY * flying**2, away * flying)
    return Pose(trunk, hands, feet, somersault=spin, travel=travel)


def gymnastics(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Run up a few steps, then a cartwheel to the left or a forward somersault, and land."""
    start, long = rng.uniform(0.1, 0.7), rng.uniform(0.85, 1.15)
    u = (t - start) / long
    s = np.clip(u, 0, 1)
    flight = np.sin(np.pi * s)
    if rng.uniform() < 0.5:
        centre = vec(0, ANKLE + body.leg * (0.97 - 0.1 * flight) + 0 * t, 0)
        trunk = Trunk(body, centre)
        up = keys(u, [-0.4, 0, 1, 1.5], [0.3, 1, 1, 0.4])
        hands = tuple(
            trunk.at(side, 0.3 * body.arm + 0.2 * (1 - up), body.arm * (1.7 * up - 0.8), 0.03) for side in (0, 1)
        )
        apart = 0.12 + 0.75 * body.leg * flight
        steps = 0.12 * (u < 0) * np.sin(2 * np.pi * 1.8 * t)
        feet = tuple(
            vec(sign * apart, ANKLE + np.where(u < 0, np.maximum(sign * steps, 0), 0.25 * flight), 0)
            for sign in (-1, 1)
        )
        travel = vec((2.0 * s + 0.8 * np.clip(u, -1, 0)), 0, 0)
        return Pose(trunk, hands, feet, cartwheel=2 * np.pi * s, travel=travel)
    tuck = keys(u, [0, 0.25, 0.7, 1.0], [0, 1, 1, 0.15])
    crouch = keys(u, [-0.3, -0.05, 0.03, 0.97, 1.1, 1.6], [0, 0.3, 0, 0.1, 0.35, 0.02])
    centre = vec(0, ANKLE + body.leg * (0.98 - crouch), 0)
    trunk = Trunk(body, centre, 0.15 + 1.1 * tuck + 0.5 * crouch)
    arms = 2.5 * (1 - 0.7 * tuck) * keys(u, [-0.5, 0, 1, 1.5], [0.3, 1, 0.6, 0.15])
    hands = tuple(
        trunk.at(side, 0.08, -0.95 * body.arm * np.cos(arms), 0.95 * body.arm * np.sin(arms)) for side in (0, 1)
    )
    drawn = vec(0, -body.leg * (0.98 - 0.9 * tuck), body.leg * 0.7 * tuck)
    stride = (u < 0)[:, None] * vec(0, 0.1 * wave(t, 1.8, 0), 0.25 * np.sin(2 * np.pi * 1.8 * t))
    air = ((u > 0) & (u < 1))[:, None]
    feet = tuple(
        np.where(air, centre + drawn + vec(sign * 0.07, 0, 0), vec(sign * 0.07, ANKLE, 0.0) + sign * stride)
        for sign in (-1, 1)
    )
    travel = vec(0, 0.75 * flight, 1.6 * s + 0.8 * np.clip(u, -1, 0))
    return Pose(trunk, hands, feet, somersault=2 * np.pi * s, travel=travel)
