"""Draw batches of pose-flow images on a device, straight from keypoints: the picture of `draw.draw_people`."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from pose.draw import DISC_RADIUS_SQUARED, LINE_RADIUS_SQUARED, MARGIN
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS, MIRROR, NUM_PARTS

SHAPES = NUM_PARTS + len(DRAWN_LIMBS)
# Pixels that a line may cover: so far beyond its ends, and so far to each side along the axis it crosses.
LINE_ENDS = 2
LINE_SIDES = 4


def pad_people(people: Sequence[np.ndarray]) -> torch.Tensor:
    """People of B images, each (P_i, 18, 3), as one float32 tensor (B, max P_i, 18, 3); score 0 fills it up."""
    most = max((len(one) for one in people), default=0)
    result = torch.zeros(len(people), most, NUM_PARTS, 3)
    for row, one in zip(result, people, strict=True):
        row[: len(one)] = torch.as_tensor(one)
    return result


def make_affines(
    frame_sizes: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Affine maps (B, 2, 3) of relative coordinates: scaling and turning about the frame's centre, then a shift.

    `frame_sizes` (B, 2) are heights and widths, so that a turn by `angle` (B,), in radians and clockwise as
    seen, keeps right angles right; `scale` is (B,), `shift` (B, 2) is x and y in parts of the frame.
    """
    aspect = (frame_sizes[:, 1] / frame_sizes[:, 0]).to(scale.dtype)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    linear = torch.stack((cos, -sin / aspect, sin * aspect, cos), dim=1).reshape(-1, 2, 2)
    offset = 0.5 - linear.sum(dim=2) * 0.5 + shift
    return torch.cat((linear, offset[:, :, None]), dim=2)


def transform_keypoints(
    keypoints: torch.Tensor, affine: torch.Tensor | None = None, mirror: torch.Tensor | None = None
) -> torch.Tensor:
    """Move people (B, P, 18, 3): mirror those images where `mirror` (B,) is true, then apply `affine` (B, 2, 3).

    Mirroring maps x to 1 - x and swaps left and right parts, so that right stays right on the body. The affine
    maps act on x and y in [0, 1] of the frame. Only the body moves; strokes keep their width.
    """
    if mirror is not None:
        flipped = keypoints[:, :, list(MIRROR)]
        flipped = torch.cat((1 - flipped[..., :1], flipped[..., 1:]), dim=-1)
        keypoints = torch.where(mirror[:, None, None, None], flipped, keypoints)
    if affine is not None:
        linear, offset = affine[:, None, None, :, :2], affine[:, None, None, :, 2]
        moved = (linear @ keypoints[..., :2, None]).squeeze(-1) + offset
        keypoints = torch.cat((moved, keypoints[..., 2:]), dim=-1)
    return keypoints


def render_people(
    keypoints: torch.Tensor,
    frame_sizes: torch.Tensor,
    size: int = 224,
    affine: torch.Tensor | None = None,
    mirror: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Draw B pose-flow images: uint8 (B, 3, size, size), RGB, on the device of `keypoints`.

    `keypoints` float (B, P, 18, 3) holds x, y in [0, 1] of the frame and a score, 0 where there is no part (see
    `pad_people`); `frame_sizes` (B, 2) or (2,) the heights and widths in pixels of the frames. `affine` and
    `mirror` are those of `transform_keypoints`, which is applied first. A pixel of a frame takes the colour of
    the last shape whose disc or segment is near enough, in the order of `draw_people`; the frame is then sampled
    bilinearly. `chunk` images are drawn at a time, which bounds the memory. Raises `ValueError` on other shapes.
    """
    if keypoints.ndim != 4 or keypoints.shape[2:] != (NUM_PARTS, 3):
        raise ValueError(f"keypoints must have the shape (B, P, {NUM_PARTS}, 3), not {tuple(keypoints.shape)}")
    frame_sizes = torch.as_tensor(frame_sizes, device=keypoints.device).long().expand(len(keypoints), 2)
    if len(keypoints) and (frame_sizes.min() < 1 or size < 1):
        raise ValueError("frames and images need at least one pixel")
    keypoints = transform_keypoints(keypoints, affine, mirror)
    chunk = chunk or (16 if keypoints.device.type == "cpu" else 256)
    images = torch.zeros(len(keypoints), 3, size, size, dtype=torch.uint8, device=keypoints.device)
    for start in range(0, len(keypoints), chunk):
        part = slice(start, start + chunk)
        _draw(images[part], keypoints[part], frame_sizes[part])
    return images


def _draw(images: torch.Tensor, keypoints: torch.Tensor, frame_sizes: torch.Tensor) -> None:
    """Draw into the black `images`."""
    number, people = keypoints.shape[:2]
    height, width = frame_sizes.T
    rows, columns = frame_sizes.amax(dim=0).tolist()
    found = (keypoints[..., 2] > 0) & torch.isfinite(keypoints[..., :2]).all(dim=-1)
    places = torch.where(found[..., None], keypoints[..., :2], 0).clamp(-4, 5).float()
    points = (places * frame_sizes.flip(1)[:, None, None] + 0.5).long()
    limbs, palette, disc = _tables(keypoints.device, people)

    # Each pixel of the frames holds the number of the last shape that covers it, from 1; 0 is background.
    canvas = torch.zeros(number * rows * columns, dtype=torch.int32, device=keypoints.device)

    def paint(image, shape, x, y, inside=True):
        image, shape = image[:, None], shape[:, None].int()
        inside = inside & (x >= 0) & (y >= 0) & (x < width[image]) & (y < height[image])
        place = (image * rows + y) * columns + x
        canvas.scatter_reduce_(
            0, torch.where(inside, place, 0).flatten(), torch.where(inside, shape, 0).flatten(), "amax"
        )

    image, person, part = found.nonzero(as_tuple=True)
    x, y = (points[image, person, part][:, None] + disc).unbind(dim=2)
    paint(image, person * SHAPES + part + 1, x, y)

    image, person, limb = (found[:, :, limbs[:, 0]] & found[:, :, limbs[:, 1]]).nonzero(as_tuple=True)
    a, b = points[image, person, limbs[limb, 0]], points[image, person, limbs[limb, 1]]
    along, line = _steps(a, b)
    shape = person * SHAPES + NUM_PARTS + limb + 1
    paint(image[line], shape[line], *_near_line(a[line], b[line], along))

    _sample(images, canvas.reshape(number, rows, columns), frame_sizes, palette)


@functools.lru_cache(maxsize=8)
def _tables(device: torch.device, people: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The drawn limbs (17, 2), the colours of all shapes behind black, and the pixels of a disc (N, 2)."""
    limbs = torch.tensor(DRAWN_LIMBS, device=device)
    palette = torch.tensor([(0, 0, 0), *(COLORS + LIMB_COLORS) * people], dtype=torch.float32, device=device)
    reach = torch.arange(-MARGIN, MARGIN + 1)
    disc = torch.cartesian_prod(reach, reach)
    return limbs, palette, disc[disc.square().sum(dim=1) <= DISC_RADIUS_SQUARED].to(device)


def _steps(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Walk all lines from a to b (N, 2) pixel by pixel: (steps, counted from a; line of each step)."""
    count = (b - a).abs().amax(dim=1) + 1 + 2 * LINE_ENDS
    line = torch.repeat_interleave(torch.arange(len(a), device=a.device), count)
    first = count.cumsum(0) - count
    return torch.arange(len(line), device=a.device) - first[line] - LINE_ENDS, line


def _near_line(a: torch.Tensor, b: torch.Tensor, along: torch.Tensor):
    """Pixels beside the steps `along` (N,) of lines from a to b (N, 2): x, y and whether the line covers them.

    All three are (N, 2 * LINE_SIDES + 1).
    """
    d = (b - a).float()
    steep = d[:, 1].abs() > d[:, 0].abs()
    major, minor = torch.where(steep, d[:, 1], d[:, 0]), torch.where(steep, d[:, 0], d[:, 1])
    u = torch.where(major < 0, -along, along)
    v = (u * minor / torch.where(major == 0, 1, major)).round()[:, None]
    v = v + torch.arange(-LINE_SIDES, LINE_SIDES + 1, device=a.device)
    u, major, minor, steep = u[:, None].expand_as(v), major[:, None], minor[:, None], steep[:, None]
    # The squared distance of (u, v) to the segment from (0, 0) to (major, minor).
    t = ((u * major + v * minor) / (major.square() + minor.square()).clamp(min=1)).clamp(0, 1)
    inside = (u - t * major).square() + (v - t * minor).square() <= LINE_RADIUS_SQUARED
    v = v.long()
    return a[:, :1] + torch.where(steep, v, u), a[:, 1:] + torch.where(steep, u, v), inside


def _sample(images: torch.Tensor, canvas: torch.Tensor, frame_sizes: torch.Tensor, palette: torch.Tensor) -> None:
    """Sample the frames on `canvas` bilinearly to the `images`, where they are not black."""
    size = images.shape[-1]
    (y0, y1, wy), (x0, x1, wx) = (_taps(frame_sizes[:, k], size) for k in (0, 1))
    image = torch.arange(len(images), device=images.device)[:, None]
    rows = canvas[image, y0], canvas[image, y1]
    x0, x1 = (x[:, None].expand(-1, size, -1) for x in (x0, x1))
    taps = [row.gather(2, x) for row in rows for x in (x0, x1)]
    image, i, j = (taps[0] + taps[1] + taps[2] + taps[3]).nonzero(as_tuple=True)
    colors = [palette[tap[image, i, j]] for tap in taps]
    wy, wx = wy[image, i, None], wx[image, j, None]
    top, bottom = torch.lerp(colors[0], colors[1], wx), torch.lerp(colors[2], colors[3], wx)
    images[image, :, i, j] = torch.lerp(top, bottom, wy).round().to(torch.uint8)


def _taps(length: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For frames of `length` (B,) pixels: both pixels of each output pixel, the second one's weight (B, size)."""
    steps = (torch.arange(size, device=length.device) + 0.5) / size
    places = (steps * length[:, None] - 0.5).clamp(min=0)
    first = places.floor().long()
    return first, torch.minimum(first + 1, length[:, None] - 1), places - first
