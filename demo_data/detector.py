"""What a pose estimator would find of the figures: noisy, incomplete, sometimes wrong keypoints."""

import numpy as np

from demo_data.clip import HEIGHT, WIDTH, Clip, Figure
from pose.skeleton import MIRROR

# The ends of limbs are missed more often than the trunk.
WEAK = np.array([0.9, 0.4, 0.6, 1.2, 1.8, 0.6, 1.2, 1.8, 0.7, 1.0, 1.5, 0.7, 1.0, 1.5, 1.0, 1.0, 1.2, 1.2])
LEGS = slice(8, 14)


def detect(clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints float32 (P, 18, 3): x, y in [0, 1] and score (0 = not found); 1-based frame int32 (P,).

    Noise and drop-outs last for some frames, as an estimator's do: parts are missed when they are hidden, far
    out on a limb or fast, left and right are swapped now and then, whole people are missed, most of all
    upside down, and bystanders and clutter are taken for the person.
    """
    quality = rng.uniform(0.4, 1.2)  # the higher the worse
    people = [_find(clip, clip.person, rng, quality)]
    people += [_find(clip, figure, rng, 1.3 * quality, missed=0.4) for figure in clip.bystanders]
    people += [_ghost(len(clip.path), rng) for _ in range(rng.poisson(0.4 * quality))]
    found = np.stack(people, 1)  # (T, people, 18, 3)
    outside = (found[..., :2] < 0).any(-1) | (found[..., :2] >= (WIDTH, HEIGHT)).any(-1)
    found[outside] = 0
    found[..., :2] /= (WIDTH, HEIGHT)
    found[(found[..., 2] > 0).sum(-1) < 4] = 0
    frame, person = np.nonzero(found[..., 2].any(-1))
    return found[frame, person].astype(np.float32), (frame + 1).astype(np.int32)


def _find(clip: Clip, figure: Figure, rng: np.random.Generator, quality: float, missed: float = 0.03) -> np.ndarray:
    truth, near = clip.parts(figure), figure.near
    frames, size = len(truth), figure.scale / 70
    noise = rng.normal(0, 1.3, truth.shape) + 2.2 * _slow(rng, truth.shape)
    stray = rng.uniform(size=(frames, 18, 1)) < 0.012 * quality
    spots = truth + quality * size * noise + stray * rng.normal(0, 16, truth.shape)

    speed = np.linalg.norm(np.gradient(truth, axis=0), axis=-1)
    chance = 0.035 * quality * WEAK + 0.012 * np.clip(speed - 4, 0, 25) + 0.45 * _hidden(truth, near, size)
    gone = _lasting(rng, (frames, 18)) < chance
    gone |= _turned_away(near)
    if clip.water is not None:
        gone |= truth[..., 1] + clip.path[:, None, 1] > clip.water
    inverted = truth[:, 1, 1] > truth[:, [8, 11], 1].mean(1)
    gone |= _lasting(rng, (frames, 1)) < missed * quality + 0.35 * inverted[:, None]

    score = np.where(gone, 0, np.clip(rng.normal(0.75, 0.12, gone.shape), 0.15, 0.98))
    out = np.concatenate([spots, score[..., None]], -1)
    away = near[:, 20] > near[:, 0]  # the face looks away from us
    swapped = _lasting(rng, (frames,)) < quality * (0.03 + 0.08 * away)
    crossed = _lasting(rng, (frames,)) < quality * 0.05
    out[swapped] = out[swapped][:, MIRROR]
    out[crossed, LEGS] = out[crossed][:, MIRROR][:, LEGS]
    return out * (out[..., 2:] > 0)


def _ghost(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Clutter taken for a person: a few parts in the shape of one, flickering."""
    shape = np.array(
        [
            (0, -3),
            (0, -2),
            (-1, -2),
            (-1.3, -1),
            (-1.4, 0),
            (1, -2),
            (1.3, -1),
            (1.4, 0),
            (-0.6, 0.2),
            (-0.7, 2),
            (-0.7, 3.8),
            (0.6, 0.2),
            (0.7, 2),
            (0.7, 3.8),
            (-0.2, -3.2),
            (0.2, -3.2),
            (-0.5, -3),
            (0.5, -3),
        ]
    )
    spots = shape * rng.uniform(6, 22) * rng.uniform(0.6, 1.4, 2) + rng.uniform((0, 40), (WIDTH, HEIGHT - 40))
    kept = (rng.uniform(size=18) < 0.45) & (_lasting(rng, (frames, 1)) < rng.uniform(0.1, 0.6))
    out = np.zeros((frames, 18, 3))
    out[..., :2] = spots + rng.normal(0, 2.5, (1, 18, 2)) + rng.normal(0, 1.5, (frames, 18, 2))
    out[..., 2] = rng.uniform(0.15, 0.5, (frames, 18))
    return out * kept[..., None]


def _hidden(truth: np.ndarray, near: np.ndarray, size: float) -> np.ndarray:
    """Whether each part (T, 18) is behind the trunk."""
    neck, pelvis = truth[:, 1:2], truth[:, [8, 11]].mean(1, keepdims=True)
    spine = pelvis - neck
    along = ((truth - neck) * spine).sum(-1) / np.maximum((spine**2).sum(-1), 1)
    aside = np.linalg.norm(truth - neck - along[..., None] * spine, axis=-1)
    depth = near[:, 1:2] * (1 - along) + near[:, 21:22] * along
    return (near[:, :18] < depth - 0.06) & (along > 0.05) & (along < 1.1) & (aside < 13 * size)


def _turned_away(near: np.ndarray) -> np.ndarray:
    """Parts of the face (T, 18) on the far side of the head."""
    gone = np.zeros((len(near), 18), bool)
    for part in (0, 14, 15, 16, 17):
        gone[:, part] = near[:, part] < near[:, 20] - 0.035
    return gone


def _slow(rng: np.random.Generator, shape: tuple[int, ...], frames: int = 7) -> np.ndarray:
    """Standard normal noise that changes over `frames` frames of the first axis."""
    raw = rng.normal(size=(shape[0] + frames - 1, *shape[1:])).cumsum(0)
    raw = np.concatenate([np.zeros((1, *shape[1:])), raw])
    return (raw[frames:] - raw[:-frames]) / np.sqrt(frames)


def _lasting(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise uniform in (0, 1), about, that changes over a few frames of the first axis."""
    return 1 / (1 + np.exp(-1.702 * _slow(rng, shape, 5)))
