"""A tiny ONNX pose network and frames for it: a frame's colours say where its people are."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.frames import FRAME_NAME
from pose.skeleton import LIMB_PAFS, LIMBS, NUM_HEATMAPS, NUM_PAFS, NUM_PARTS
from tests.helpers import run_script

SIZE = (128, 192)
MAP_SIZE = (16, 24)
# (row, column) of each part's cell in the left half of the maps.
CELLS = [
    (2, 5),
    (4, 5),
    (4, 3),
    (7, 2),
    (9, 1),
    (4, 8),
    (7, 9),
    (9, 10),
    (9, 4),
    (11, 4),
    (13, 4),
    (9, 7),
    (11, 7),
    (13, 7),
    (1, 4),
    (1, 6),
    (2, 3),
    (2, 8),
]
RED, GREEN, BOTH, NONE = (250, 0, 0), (0, 250, 0), (250, 250, 0), (0, 0, 0)
# Videos by the name of their folder of frames; the names are as wild as users' are.
VIDEOS = {
    "v_Archery_g01_c01": [RED, GREEN, BOTH, NONE, NONE, (200, 100, 0), (100, 220, 0)],
    "Archery_g01_c02": [NONE] * 3,
    "v_Übung 1.5 – a": [GREEN] * 5,
    "clip.v2": [BOTH],
    "v_v_twice": [RED] * 2,
}
NAMES = ["Archery_g01_c01", "Archery_g01_c02", "clip.v2", "v_twice", "Übung 1.5 – a"]


def person_maps(column: int) -> np.ndarray:
    """Maps (16, 24, 57) of one person, `column` cells to the right of `CELLS`; the rest is 0."""
    maps = np.zeros((*MAP_SIZE, NUM_HEATMAPS + NUM_PAFS), np.float32)
    for part, (row, place) in enumerate(CELLS):
        maps[row, place + column, part] = 1
    for (a, b), channels in zip(LIMBS, LIMB_PAFS, strict=True):
        (y1, x1), (y2, x2) = CELLS[a], CELLS[b]
        field = np.array([x2 - x1, y2 - y1]) / np.hypot(x2 - x1, y2 - y1)
        maps[:, column : column + 12, [NUM_HEATMAPS + channel for channel in channels]] = field
    return maps


def expected_person(column: int) -> np.ndarray:
    """x and y (18, 2) of that person in [0, 1]; within half a cell of what grouping refines."""
    return np.array([((x + column + 0.5) / MAP_SIZE[1], (y + 0.5) / MAP_SIZE[0]) for y, x in CELLS])


def build_network(layout: str = "nhwc", outputs: int = 1, dynamic: bool = True):
    """An onnx model: maps = red · (person on the left) + green · (person on the right) + background.

    Red and green are the means in [0, 1] over the image, whose values are x/127.5 − 1, in the order B, G, R.
    """
    from onnx import TensorProto, helper, numpy_helper

    background = np.zeros_like(person_maps(0))
    background[..., NUM_PARTS] = 0.9
    rows = np.stack([0 * background, person_maps(12), person_maps(0)]), background
    if layout == "nchw":
        rows = tuple(np.moveaxis(maps, -1, -3) for maps in rows)
    shape = rows[1].shape
    constants = {
        "people": rows[0].reshape(3, -1),
        "background": rows[1].reshape(1, -1),
        "flat": np.array([-1, 3]),
        "one": np.float32([1]),
        "half": np.float32([0.5]),
        "shape": np.array([-1, *shape]),
        "axes": np.array([2, 3] if layout == "nchw" else [1, 2]),
    }
    axis = 1 if layout == "nchw" else 3
    sides = ("height", "width") if dynamic else SIZE
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "flat"], ["colours"]),
        helper.make_node("Add", ["colours", "one"], ["positive"]),
        helper.make_node("Mul", ["positive", "half"], ["weights"]),
        helper.make_node("MatMul", ["weights", "people"], ["mixed"]),
        helper.make_node("Add", ["mixed", "background"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["maps"]),
    ]
    names = ["maps"]
    if outputs == 2:
        names = ["first", "second"]
        constants["counts"] = np.array([NUM_HEATMAPS, NUM_PAFS])
        nodes.append(helper.make_node("Split", ["maps", "counts"], names, axis=axis))
    graph = helper.make_graph(
        nodes,
        "pose",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, ["batch", 3, *sides] if layout == "nchw" else ["batch", *sides, 3]
            )
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_network(path: Path, **options) -> Path:
    """Write the network of `build_network`."""
    path.write_bytes(build_network(**options).SerializeToString())
    return path


def save_frames(folder: Path, colors, size: tuple[int, int] = (48, 64)) -> Path:
    """Write frames of one colour each, (red, green, blue) in 0..255."""
    folder.mkdir(parents=True)
    for number, color in enumerate(colors, 1):
        frame = np.broadcast_to(np.array(color, np.uint8), (*size, 3))
        Image.fromarray(frame).save(folder / FRAME_NAME.format(number), quality=95)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(root: Path, out: Path) -> tuple:
    """Arguments of process_pose.py for the frames and the network in `root`."""
    return (
        "--frames",
        root / "frames",
        "--out",
        out,
        "--images",
        "--model",
        "onnx",
        "--pose-weights",
        root / "net.onnx",
        "--device",
        "cpu",
    )


def make_data(root: Path) -> Path:
    """Fill `root` with `frames` of `VIDEOS`, `net.onnx`, and a run's `poses`, `output.txt` and `sheet.png`."""
    for name, colors in VIDEOS.items():
        save_frames(root / "frames" / name, colors)
    save_network(root / "net.onnx", dynamic=False)
    finished = run_script(
        "process_pose.py", *command(root, root / "poses"), "--workers", 2, "--preview", root / "sheet.png"
    )
    assert finished.returncode == 0, finished.stderr
    (root / "output.txt").write_text(finished.stdout)
    return root
