"""How a figure moves in each of the 15 classes: poses as pure functions of time.

Every movement takes the body, the time (T,) in seconds and a generator for what varies from clip to clip, and
returns a `Pose`. Lengths are metres; side 0 is the right, 1 the left.
"""

from collections.abc import Sequence

import numpy as np

from demo_data.figure import ANKLE, Body, Pair, Pose, Prop, Trunk, vec

STEEL, WOOD, ROPE = (150, 155, 165), (150, 105, 60), (225, 215, 180)


def wave(t: np.ndarray, hertz: float, phase: float) -> np.ndarray:
    """Swing between 0 and 1 (T,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * (hertz * t + phase))


def keys(t: np.ndarray, times: np.ndarray | Sequence[float], rows: np.ndarray | Sequence) -> np.ndarray:
    """Values (T, ...) that pass through `rows` (K, ...) at `times` (K,), at rest in each, held outside."""
    times, rows = np.asarray(times, float), np.asarray(rows, float)
    i = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    s = np.clip((t - times[i]) / (times[i + 1] - times[i]), 0, 1)
    s = (s * s * (3 - 2 * s)).reshape(-1, *(1,) * (rows.ndim - 1))
    return rows[i] * (1 - s) + rows[i + 1] * s


def stand(t: np.ndarray, width: float, depth: float = 0.0) -> Pair:
    """Feet (T, 3) at rest, `width` metres apart, the left one `depth` metres further forward."""
    return tuple(vec(sign * width / 2 + 0 * t, ANKLE, sign * depth / 2) for sign in (-1, 1))


def idle_hands(trunk: Trunk, body: Body, rng: np.random.Generator, down: float = 0.95) -> Pair:
    """Both hands (T, 3) hanging, on the hips, or crossed, as drawn by `rng`."""
    style = rng.choice(3, p=(0.4, 0.4, 0.2))
    if style == 0:
        return tuple(
            trunk.from_pelvis(side, body.shoulder + 0.1, body.torso - down * body.arm, 0.05) for side in (0, 1)
        )
    if style == 1:
        return tuple(trunk.from_pelvis(side, body.hip + 0.09, 0.08, 0.04) for side in (0, 1))
    return tuple(trunk.at(side, -body.shoulder * 0.9, -0.14, 0.2) for side in (0, 1))


def squats(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Bend and stretch the knees; arms raised forward, behind the head or idle."""
    s = wave(t, rng.uniform(0.45, 0.85), rng.uniform())
    depth, style, width = rng.uniform(0.35, 0.6), rng.choice(3, p=(0.6, 0.2, 0.2)), rng.uniform(0.3, 0.5)
    trunk = Trunk(body, vec(0, ANKLE + body.leg * (0.98 - depth * s), -0.3 * s), 0.1 + rng.uniform(0.4, 0.8) * s)
    if style == 0:
        raised = rng.uniform(0.2, 1.0) * (1 - s) + s
        hands = tuple(
            trunk.from_pelvis(
                side,
                body.shoulder,
                body.torso - body.arm * np.cos(1.5 * raised),
                0.1 + body.arm * np.sin(1.5 * raised) + 0.3 * s,
            )
            for side in (0, 1)
        )
    elif style == 1:
        hands = tuple(trunk.at(side, -0.06, 0.12, 0.02) for side in (0, 1))
    else:
        hands = idle_hands(trunk, body, rng)
    return Pose(trunk, hands, stand(t, width), knees=(0.45, 0, 1), elbows=(1, -0.6, 0))


def skiing(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Go downhill in a crouch, bending and stretching the knees through turns, poles in the hands."""
    hertz, phase = rng.uniform(0.45, 0.85), rng.uniform()
    s, sway = wave(t, hertz, phase), np.sin(np.pi * 2 * (hertz / 2 * t + phase)) * rng.uniform(0.05, 0.3)
    depth, base = rng.uniform(0.15, 0.4), rng.uniform(0.08, 0.25)
    trunk = Trunk(
        body,
        vec(sway * 0.5, ANKLE + body.leg * (0.97 - base - depth * s), -0.12 - 0.2 * s),
        0.35 + rng.uniform(0.2, 0.6) * s,
        sway,
    )
    reach = rng.uniform(0.5, 0.85)
    hands = tuple(
        trunk.from_pelvis(side, body.shoulder + 0.1, body.torso - 0.3 - 0.1 * s, reach * body.arm + 0.15 * s)
        for side in (0, 1)
    )
    feet = stand(t, rng.uniform(0.2, 0.4), rng.uniform(-0.15, 0.15))
    color = tuple(int(c) for c in rng.integers(30, 255, 3))
    props = [
        Prop(np.stack([foot + (0, -0.06, -0.7), foot + (0, -0.06, 0.75), foot + (0, 0.03, 0.95)], 1), color, 0.06)
        for foot in feet
    ]
    props += [Prop(np.stack([hand, hand + (0, -0.55, -0.75)], 1), STEEL, 0.025) for hand in hands]
    return Pose(trunk, hands, feet, knees=(0.2, 0, 1), elbows=(0.8, -1, -0.3), props=props)


def lunges(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Step far forward with one leg, sink, step back, and so on with the other."""
    hertz, start = rng.uniform(0.4, 0.7), rng.uniform(0, 2)
    turn = hertz * t + start
    s, leading = wave(turn, 1, 0), np.floor(turn).astype(int) % 2
    step = rng.uniform(0.9, 1.15) * body.leg
    trunk = Trunk(body, vec(0, ANKLE + body.leg * (0.98 - 0.42 * s), 0.45 * step * s), rng.uniform(0, 0.25) * s)
    lift = 0.18 * np.sin(np.pi * s)
    feet = tuple(
        vec(
            (side - 0.5) * 0.24,
            ANKLE + np.where(leading == side, lift, 0.1 * s),
            np.where(leading == side, step * s, -0.1 * s),
        )
        for side in (0, 1)
    )
    return Pose(trunk, idle_hands(trunk, body, rng), feet)


def pitch(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Wind up with one knee raised, stride to the left, throw overarm, follow through."""
    times = np.array([0, 0.4, 0.62, 0.76, 0.86, 1.1]) * rng.uniform(1.2, 1.8) + rng.uniform(-0.4, 0.5)
    leg, arm = body.leg, body.arm
    high, far = rng.uniform(0.35, 0.6) * leg, rng.uniform(0.9, 1.1) * leg
    pelvis = keys(
        t, times, [(0, 0.97, 0), (-0.05, 0.97, 0), (0.35, 0.8, 0), (0.5, 0.76, 0), (0.58, 0.75, 0), (0.62, 0.78, 0.1)]
    )
    twist = keys(t, times, [0, -0.5, -0.4, 0.7, 1.3, 1.5])
    tilt = keys(t, times, [0, -0.12, -0.1, 0.15, 0.35, 0.5])
    trunk = Trunk(body, pelvis * (leg, leg, leg) + (0, ANKLE, 0), 0.1, tilt, twist)
    right = [(0.1, -0.2, 0.25), (0.1, -0.15, 0.25), (-0.7, 0.2, -0.1), (-0.45, 0.6, -0.1), (0.1, 0.7, 0.6)]
    right = keys(t, times, [*right, (0.5, -0.5, 0.6)])
    left = keys(
        t,
        times,
        [(-0.1, -0.2, 0.25), (-0.1, -0.15, 0.25), (0.8, 0.15, 0.2), (0.4, 0.0, 0.3), (0.1, -0.3, 0.2), (0, -0.4, 0.1)],
    )
    rear = keys(
        t, times, [(-0.1, 0, 0), (-0.1, 0, 0), (-0.1, 0, 0), (-0.05, 0.05, 0), (0.05, 0.15, -0.1), (0.5, 0.2, 0.25)]
    )
    front = keys(t, times, [(0.12, 0, 0), (0.1, high, 0.25), (far, 0.05, 0.05), *[(far, 0, 0.05)] * 3])
    hands = tuple(trunk.shoulders[side] + arm * move for side, move in enumerate((right, left)))
    glove = Prop(hands[1][:, None] + np.array([[0, 0.02, 0], [0, -0.1, 0.04]]), (110, 70, 40), 0.16)
    return Pose(trunk, hands, (rear + (0, ANKLE, 0), front + (0, ANKLE, 0)), elbows=(0.6, -0.4, -0.6), props=[glove])


def archery(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Stand sideways, raise the bow to the left, draw to the chin, hold, loose."""
    times = np.cumsum([0, *rng.uniform((0.4, 0.5, 0.7, 0.12, 0.8), (0.8, 0.9, 1.5, 0.2, 1.4))]) - rng.uniform(0, 1.6)
    pelvis = vec(0.02 * np.sin(t), ANKLE + 0.985 * body.leg, 0)
    trunk = Trunk(body, pelvis, 0.02, rng.uniform(-0.05, 0.08), -0.15)
    out = np.array([body.shoulder + body.arm, body.torso - 0.02, 0.0])
    left = keys(t, times, [(0.3, 0.1, 0.25), out, out, out, out, (0.35, 0.1, 0.2)])
    right = keys(
        t,
        times,
        [
            (0.2, 0.1, 0.3),
            out - (0.12, 0, 0),
            (-0.02, body.torso + 0.1, 0.12),
            (-0.02, body.torso + 0.1, 0.12),
            (-0.25, body.torso + 0.08, 0.02),
            (-0.1, 0.05, 0.15),
        ],
    )
    hands = (trunk.pelvis + right, trunk.pelvis + left)
    span = np.linspace(-0.75, 0.75, 7)
    rise = keys(t, times, [0.6, 0, 0, 0, 0, 0.6])[:, None]
    limb = hands[1][:, None] + vec(0.05 - 0.3 * span**2 + rise * span * 0.6, span * (1 - 0.4 * rise), 0.0)
    drawn = keys(t, times, [0, 0, 1, 1, 0, 0])[:, None]
    nock = drawn * hands[0] + (1 - drawn) * limb[:, [0, -1]].mean(1)
    props = [Prop(limb, WOOD, 0.045), Prop(np.stack([limb[:, 0], nock, limb[:, -1]], 1), (235, 235, 235), 0.015)]
    return Pose(trunk, hands, stand(t, rng.uniform(0.35, 0.5)), elbows=(0.7, 0.1, -0.6), nod=0.0, props=props)


def _stick(trunk: Trunk, body: Body, angle: float | np.ndarray, reach: float, spread: float):
    """Hands (T, 3) on one stick, swung as a pendulum by `angle` (to the left) around the shoulders."""
    centre = (trunk.shoulders[0] + trunk.shoulders[1]) / 2
    way = np.einsum("tij,tj->ti", trunk.frame, vec(np.sin(angle), -np.cos(angle), 0.25 + 0.2 * np.cos(angle)))
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    return centre + way * reach * body.arm, centre + way * (reach * body.arm - spread), way


def golf(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Address the ball bent forward, swing the club back to the right and through to the left, long or short."""
    times = np.cumsum([0, *rng.uniform((0.65, 0.25, 0.3, 0.8), (1.0, 0.35, 0.45, 1.2))]) + rng.uniform(-0.7, 0.6)
    full = rng.uniform(0.75, 2.4)
    angle = keys(t, times, [0, -full, 0.1, full, 0.85 * full]) + 0.06 * np.sin(5 * t)
    lean = 0.55 - 0.12 * np.abs(angle)
    trunk = Trunk(body, vec(0.05 * angle, ANKLE + 0.93 * body.leg + 0 * t, -0.12), lean, 0, 0.45 * angle)
    low, high, way = _stick(trunk, body, angle, 0.86, 0.08)
    cock = 1.5 * angle
    club = np.einsum("tij,tj->ti", trunk.frame, vec(np.sin(cock), -np.cos(cock), 0.35 * np.cos(cock)))
    props = [Prop(np.stack([high, low + 0.85 * club, low + 0.85 * club + way * (0, 0, 0.1)], 1), STEEL, 0.03)]
    return Pose(
        trunk, (low, high), stand(t, rng.uniform(0.35, 0.5)), knees=(0.2, 0, 1), elbows=(0.5, -0.4, -0.7), props=props
    )


def mopping(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Bent forward, sweep a mop from side to side, shifting the weight and shuffling along."""
    hertz, phase, wide = rng.uniform(0.4, 0.8), rng.uniform(), rng.uniform(0.45, 1.1)
    angle = wide * np.sin(2 * np.pi * (hertz * t + phase))
    pelvis = vec(0.06 * angle, ANKLE + 0.94 * body.leg, -0.1)
    trunk = Trunk(body, pelvis, rng.uniform(0.35, 0.65), 0, 0.45 * angle)
    low, high, _ = _stick(trunk, body, angle, rng.uniform(0.75, 0.9), rng.uniform(0.08, 0.3))
    head = vec(1.1 * np.sin(angle), 0.03, 0.35 + 0.5 * np.cos(angle))
    color = tuple(int(c) for c in rng.integers(120, 250, 3))
    props = [
        Prop(np.stack([high + 0.25 * (high - head), head], 1), WOOD, 0.035),
        Prop(np.stack([head + (-0.15, 0, 0), head + (0.15, 0, 0)], 1), color, 0.12),
    ]
    shuffle = 0.06 * np.sin(2 * np.pi * hertz * t)
    feet = tuple(foot + vec(shuffle * sign, 0, 0) for sign, foot in zip((1, -1), stand(t, 0.36, 0.1), strict=True))
    return Pose(trunk, (low, high), feet, knees=(0.2, 0, 1), elbows=(0.5, -0.4, -0.7), props=props)


def jumping_jack(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Hop between feet together with arms down and feet apart with arms overhead."""
    hertz, phase = rng.uniform(0.8, 1.3), rng.uniform()
    s = wave(t, hertz, phase)
    hop = 0.09 * np.abs(np.sin(2 * np.pi * (hertz * t + phase)))
    trunk = Trunk(body, vec(0, ANKLE + body.leg * (0.98 - 0.06 * s) + hop, 0))
    angle = 0.25 + rng.uniform(2.0, 2.7) * s
    reach = 0.97 * body.arm
    hands = tuple(trunk.at(side, reach * np.sin(angle), -reach * np.cos(angle), 0.05) for side in (0, 1))
    wide = 0.07 + rng.uniform(0.2, 0.36) * s
    feet = tuple(vec(sign * wide, ANKLE + hop, 0) for sign in (-1, 1))
    return Pose(trunk, hands, feet, elbows=(0.3, -1, -0.2))


def jump_rope(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Hop on the spot with the hands beside the hips, a rope going round."""
    hertz, phase = rng.uniform(1.5, 2.4), rng.uniform()
    around = 2 * np.pi * (hertz * t + phase)
    hop = 0.12 * np.maximum(np.sin(around), 0)
    trunk = Trunk(body, vec(0, ANKLE + body.leg * (0.97 - 0.04 * wave(t, hertz, phase)) + hop, 0), 0.05)
    circle = vec(0, 0.05 * np.sin(around), 0.05 * np.cos(around))
    hands = tuple(trunk.from_pelvis(side, body.hip + rng.uniform(0.2, 0.3), 0.06, 0.12) + circle for side in (0, 1))
    feet = tuple(vec(sign * 0.08, ANKLE + hop, 0) for sign in (-1, 1))
    bow = np.sin(np.linspace(0, np.pi, 9))[:, None]
    bend = vec(0, 1.05 * np.sin(around), 1.05 * np.cos(around))
    mix = np.linspace(0, 1, 9)[:, None]
    rope = hands[0][:, None] * (1 - mix) + hands[1][:, None] * mix + bend[:, None] * bow
    return Pose(trunk, hands, feet, elbows=(0.6, -0.7, -0.6), props=[Prop(rope, ROPE, 0.025)])


def pull_ups(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Hang from a bar and pull the chin up to it."""
    s = wave(t, rng.uniform(0.4, 0.8), rng.uniform())
    bar = ANKLE + body.leg + body.torso + body.arm + 0.25
    grip, bend = body.shoulder + rng.uniform(0.05, 0.25), rng.uniform(0, 0.5)
    swing = 0.06 * np.sin(2 * np.pi * 0.5 * t)
    rise = rng.uniform(0.6, 0.85) * body.arm
    trunk = Trunk(body, vec(0, bar - body.torso - 0.97 * body.arm + rise * s, -0.08 + swing), 0.05 - swing)
    hands = tuple(vec(sign * grip + 0 * t, bar, 0) for sign in (-1, 1))
    feet = tuple(
        trunk.from_pelvis(side, 0.07, -body.leg * (0.98 - 0.3 * bend), -body.leg * 0.45 * bend + swing)
        for side in (0, 1)
    )
    post = vec([-0.9, -0.9, 0.9, 0.9], [0, bar, bar, 0], 0)
    frame = Prop(np.repeat(post[None], len(t), 0), tuple(int(c) for c in rng.integers(40, 140, 3)), 0.07, behind=True)
    return Pose(trunk, hands, feet, elbows=(0.8, -1, 0.1), nod=-0.15, props=[frame])


def tai_chi(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Shift the weight slowly in a deep stance, pushing both palms forward or circling the arms."""
    hertz, phase = rng.uniform(0.22, 0.45), rng.uniform()
    s, low = wave(t, hertz, phase), rng.uniform(0.08, 0.2)
    long = rng.uniform(0.3, 0.6)
    if rng.uniform() < 0.65:
        trunk = Trunk(body, vec(0, ANKLE + body.leg * (0.98 - low - 0.03 * s), long * 0.5 * (s - 0.5)), 0.05 + 0.2 * s)
        hands = tuple(trunk.at(side, -0.02, -0.1 * (1 - s), (0.3 + 0.6 * s) * body.arm) for side in (0, 1))
        return Pose(trunk, hands, stand(t, 0.3, long), elbows=(0.6, -1, -0.2))
    around = 2 * np.pi * (hertz * t + phase)
    pelvis = vec(0.18 * np.sin(around), ANKLE + body.leg * (0.96 - low), 0)
    trunk = Trunk(body, pelvis, 0.03, 0, 0.4 * np.sin(around))
    hands = tuple(
        trunk.at(side, 0.05 + 0.25 * np.sin(around + shift), -0.2 + 0.25 * np.cos(around + shift), 0.38)
        for side, shift in ((0, 0.0), (1, np.pi))
    )
    return Pose(trunk, hands, stand(t, 0.45 + long / 2), knees=(0.4, 0, 1), elbows=(0.8, -1, -0.2))


def wall_pushups(body: Body, t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Lean against a wall with straight body, bend and stretch the arms."""
    s, slant = wave(t, rng.uniform(0.35, 0.7), rng.uniform()), rng.uniform(0.12, 0.3)
    angle = slant + rng.uniform(0.12, 0.25) * s
    trunk = Trunk(body, vec(0, ANKLE + 0.985 * body.leg * np.cos(angle), 0.985 * body.leg * np.sin(angle)), angle)
    away = np.sin(slant) * (body.leg + body.torso) + 0.9 * body.arm
    height = ANKLE + (body.leg + body.torso) * np.cos(slant) - rng.uniform(0.0, 0.15)
    hands = tuple(vec(sign * (body.shoulder + rng.uniform(0, 0.1)) + 0 * t, height, away) for sign in (-1, 1))
    x, z = np.array([-2.4, 0.5]), away + np.array([0.06, 1.8])
    tone = tuple(int(c) for c in rng.uniform(110, 235) + rng.uniform(-25, 25, 3))
    shade = tuple(int(0.86 * c) for c in tone)
    face = vec([x[0], x[0], x[1], x[1]], [0, 3.2, 3.2, 0], z[0])
    edge = vec(x[1], [0, 3.2, 3.2, 0], [z[0], z[0], z[1], z[1]])
    props = [
        Prop(np.repeat(quad[None], len(t), 0), color, filled=True, behind=True)
        for quad, color in ((face, tone), (edge, shade))
    ]
    return Pose(trunk, hands, stand(t, 0.2), elbows=(0.6, -1, -0.2), props=props)
