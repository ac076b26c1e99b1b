"""A jointed human figure: body proportions, poses as functions of time, and where the joints come to lie.

Coordinates are metres in the figure's own frame: x to its left, y up from the ground, z forward.
"""

from dataclasses import dataclass, field

import numpy as np

ANKLE = 0.08  # height of the ankle above the sole, metres
DOWN, FORWARD, BACK = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])


@dataclass(frozen=True)
class Body:
    """Lengths in metres (widths are halves), and how much thicker than average the limbs are."""

    thigh: float
    shin: float
    torso: float
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    head: float
    girth: float

    @property
    def leg(self) -> float:
        """Hip to ankle."""
        return self.thigh + self.shin

    @property
    def height(self) -> float:
        """From the sole to the top of the head, standing."""
        return ANKLE + self.leg + self.torso + 3 * self.head

    @property
    def arm(self) -> float:
        """Shoulder to wrist."""
        return self.upper_arm + self.forearm


def random_body(rng: np.random.Generator) -> Body:
    """Draw a body between a child of ten's and a tall adult's, with proportions of its own."""
    height = rng.uniform(1.45, 1.95)
    vary = rng.uniform(0.94, 1.06, 7)
    return Body(
        thigh=0.245 * height * vary[0],
        shin=0.235 * height * vary[0],
        torso=0.285 * height * vary[1],
        shoulder=0.105 * height * vary[2],
        hip=0.055 * height * vary[3],
        upper_arm=0.165 * height * vary[4],
        forearm=0.15 * height * vary[4],
        head=0.062 * height * vary[5],
        girth=rng.uniform(0.8, 1.35),
    )


def vec(x: float | np.ndarray, y: float | np.ndarray, z: float | np.ndarray) -> np.ndarray:
    """Stack coordinates, each a number or an array over time, to (..., 3)."""
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(float)


def rotation(axis: str, angle: float | np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3); positive is up→forward for 'x', forward→left for 'y', up→left for 'z'."""
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    rows = {
        "x": [[one, zero, zero], [zero, c, -s], [zero, s, c]],
        "y": [[c, zero, s], [zero, one, zero], [-s, zero, c]],
        "z": [[c, s, zero], [-s, c, zero], [zero, zero, one]],
    }[axis]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def turn(points: np.ndarray, matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rotate points (T, ..., 3) by matrices (T, 3, 3) about centres (T, 3)."""
    extra = (None,) * (points.ndim - 2)
    centre = centre[(slice(None), *extra)]
    return np.einsum("tij,t...j->t...i", matrix, points - centre) + centre


class Trunk:
    """Pelvis, spine and shoulders over time: where arms and legs are attached, (T, 3) each."""

    def __init__(
        self,
        body: Body,
        pelvis: np.ndarray,
        lean: float | np.ndarray = 0.0,
        tilt: float | np.ndarray = 0.0,
        twist: float | np.ndarray = 0.0,
    ):
        """`lean` forward, `tilt` to the left and `twist` of the shoulders to the left are in radians."""
        time = len(pelvis)
        lean, tilt, twist = (np.broadcast_to(np.asarray(a, float), time) for a in (lean, tilt, twist))
        self.pelvis = pelvis
        self.frame = rotation("z", tilt) @ rotation("x", lean) @ rotation("y", twist)
        self.neck = pelvis + self.frame[:, :, 1] * body.torso
        across = self.frame[:, :, 0] * body.shoulder
        drop = self.frame[:, :, 1] * 0.03
        self.shoulders = (self.neck - across - drop, self.neck + across - drop)
        hips = vec(np.cos(0.3 * twist), 0, -np.sin(0.3 * twist)) * body.hip
        self.hips = (pelvis - hips, pelvis + hips)

    def at(self, side: int, x: float | np.ndarray, y: float | np.ndarray, z: float | np.ndarray) -> np.ndarray:
        """Points (T, 3) seen from a shoulder (0 right, 1 left): x outward, y up, z forward of the chest."""
        local = vec(np.asarray(x) * (1 if side else -1), y, z)
        return self.shoulders[side] + np.einsum("tij,...j->ti" if local.ndim == 1 else "tij,tj->ti", self.frame, local)

    def from_pelvis(self, side: int, x: float | np.ndarray, y: float | np.ndarray, z: float | np.ndarray) -> np.ndarray:
        """Points (T, 3) seen from the pelvis, not turned with the chest: x outward, y up, z forward."""
        return self.pelvis + vec(np.asarray(x) * (1 if side else -1), y, z)


Pair = tuple[np.ndarray, ...]  # of the right and the left one


@dataclass
class Prop:
    """A thing that goes with the figure: a line through points (T, K, 3), or a filled shape."""

    points: np.ndarray
    color: tuple[int, ...]
    width: float = 0.03  # metres
    filled: bool = False
    behind: bool = False


@dataclass
class Pose:
    """A movement: the trunk over time, targets of hands and feet (right, left), turns of the whole figure."""

    trunk: Trunk
    hands: Pair
    feet: Pair
    elbows: np.ndarray | tuple[float, float, float] = (0.5, -1.0, -0.4)  # where elbows point, x outward
    knees: np.ndarray | tuple[float, float, float] = (0.15, 0.0, 1.0)
    nod: float | np.ndarray = 0.0
    somersault: float | np.ndarray = 0.0  # radians forward, about the pelvis
    cartwheel: float | np.ndarray = 0.0  # radians to the left, about the pelvis
    travel: np.ndarray | None = None  # (T, 3), added to everything
    props: list[Prop] = field(default_factory=list)


def two_bones(
    root: np.ndarray, target: np.ndarray, first: float, second: float, pole: np.ndarray | tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Middle and end joints (T, 3) of a limb from `root` towards `target`, bent towards `pole`.

    A target out of reach is approached with the limb all but straight.
    """
    way = target - root
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    way = way / np.maximum(length, 1e-6)
    length = np.clip(length, abs(first - second) + 0.02, 0.995 * (first + second))
    bend = np.broadcast_to(pole, way.shape) - (pole * way).sum(-1, keepdims=True) * way
    bend = bend / np.maximum(np.linalg.norm(bend, axis=-1, keepdims=True), 1e-6)
    cos = np.clip((first**2 + length**2 - second**2) / (2 * first * length), -1, 1)
    return root + first * (cos * way + np.sqrt(1 - cos**2) * bend), root + length * way


def joints(body: Body, pose: Pose) -> np.ndarray:
    """Joints (T, 22, 3) of a pose: the 18 parts in OpenPose's order, right and left toes, head, pelvis."""
    trunk = pose.trunk
    out = np.zeros((len(trunk.pelvis), 22, 3))
    out[:, 1] = trunk.neck
    for side, (shoulder, hip, toe) in enumerate(((2, 8, 18), (5, 11, 19))):
        sign = np.array([1.0 if side else -1.0, 1.0, 1.0])
        out[:, shoulder], out[:, hip] = trunk.shoulders[side], trunk.hips[side]
        out[:, shoulder + 1], out[:, shoulder + 2] = two_bones(
            trunk.shoulders[side], pose.hands[side], body.upper_arm, body.forearm, np.asarray(pose.elbows) * sign
        )
        out[:, hip + 1], out[:, hip + 2] = two_bones(
            trunk.hips[side], pose.feet[side], body.thigh, body.shin, np.asarray(pose.knees) * sign
        )
        shin = out[:, hip + 2] - out[:, hip + 1]
        shin /= np.linalg.norm(shin, axis=-1, keepdims=True)
        flat = FORWARD - 0.6 * (shin @ FORWARD)[:, None] * shin
        out[:, toe] = out[:, hip + 2] + 0.16 * flat / np.linalg.norm(flat, axis=-1, keepdims=True) + 0.05 * shin
    nod = np.broadcast_to(np.asarray(pose.nod, float), len(out))
    look = trunk.frame @ rotation("x", nod)
    head = trunk.neck + look[:, :, 1] * body.head * 2.0
    face = np.array([[0, -0.15, 1.0], [-0.42, 0.35, 0.85], [0.42, 0.35, 0.85], [-0.95, 0.1, 0.0], [0.95, 0.1, 0.0]])
    out[:, [0, 14, 15, 16, 17]] = head[:, None] + np.einsum("tij,kj->tki", look, face * body.head)
    out[:, 20], out[:, 21] = head, trunk.pelvis
    return _whole(out, pose)


def prop_points(pose: Pose, prop: Prop) -> np.ndarray:
    """Points (T, K, 3) of a prop where the whole figure's travel has brought it."""
    return prop.points if pose.travel is None else prop.points + pose.travel[:, None]


def _whole(points: np.ndarray, pose: Pose) -> np.ndarray:
    for axis, angle in (("x", pose.somersault), ("z", pose.cartwheel)):
        angle = np.broadcast_to(np.asarray(angle, float), len(points))
        if angle.any():
            points = turn(points, rotation(axis, angle), pose.trunk.pelvis)
    return points if pose.travel is None else points + pose.travel[:, None]


@dataclass(frozen=True)
class Camera:
    """A distant camera: `yaw` turns the figure (0 faces us, π/2 looks to the right), `pitch` looks down on it."""

    yaw: float
    pitch: float
    scale: float  # pixels per metre

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2), x right and y down from the figure's origin, and nearness (...) in metres."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        near = z * np.cos(self.yaw) - x * np.sin(self.yaw)
        across = x * np.cos(self.yaw) + z * np.sin(self.yaw)
        down = near * np.sin(self.pitch) - y * np.cos(self.pitch)
        return self.scale * np.stack([across, down], -1), near
