"""Damaged and hostile files of every kind: they load, or they end in one `error:` line with status 2.

By default the same 500 cases per test each time; FUZZ_CASES=20000 looks for new ones, at random.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import signal
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common import cli, images
from dataloader.frame_index import CACHE_NAME, find_folders, index_frames
from dataloader.images import random_crop, read_image, resize
from dataloader.names import Video
from dataloader.sampling import stack_indices
from dataloader.sampling import test_starts as starts_of
from dataloader.split_train_test_video import read_class_index, read_split
from fusion.plots import plot_curves
from network import load_starting_weights
from pose.keypoints import load_keypoints, people_of_frame
from prediction import classify
from training import run as stream
from training.distributed import Processes
from training.loop import go_on_from
from training.streams import Stream
from utils import read_record, write_record

cases = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", 500)),
    derandomize="FUZZ_CASES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
NAMES = ["Archery", "Diving", "TaiChi"]
STREAM = Stream("spatial", "rgb", length=1, prepare=None)


def outcome(function) -> bool:
    """Run `function` as a script's body: True if it went well, False if it ended in one line and status 2."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # not shown to users
        try:
            cli.run(lambda: function() and None)
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    lines = err.getvalue().splitlines()
    if status == 0:
        assert lines == []
    else:
        assert status == 2 and len(lines) == 1, (status, lines)
        assert lines[0].startswith("error: ") and len(lines[0]) > 15 and lines[0].isprintable(), lines
    return status == 0


# ---- damage ----


def damage(data: bytes, seed: int) -> bytes:
    """One to five random changes: bytes replaced, removed, repeated or added, the end cut off."""
    rng = np.random.default_rng(seed)
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(data) + 1))
        length = int(2 ** rng.uniform(0, 6))
        kind = rng.integers(7)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            data[at : at + 1] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])])
        elif kind == 2:
            data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            other = int(rng.integers(len(data) + 1))
            data[at : at + length] = data[other : other + length]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


seeds = st.integers(0, 2**32 - 1)
odd_tensors = st.sampled_from(
    [
        torch.zeros(0),
        torch.tensor(float("nan")),
        torch.tensor([1, 2]),
        torch.tensor(True),
        torch.zeros(1, 1, 1, 1),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(1, dtype=torch.float16),
        torch.zeros(3, 3).to_sparse(),
        torch.zeros(1, 1, 1, 1).to_sparse(),
        torch.zeros(1).expand(10**9),
        torch.zeros(1, device="meta"),
        torch.zeros(1, 3, 1, 1, dtype=torch.int64),
        torch.zeros(1, 3, 1, 1, device="meta"),
        torch.zeros(1, 3, 1, 1),
        torch.zeros(3, 3).to_sparse_csr(),
        torch.zeros(1, 3, 1, 1).to_sparse(),
        torch.zeros(1, 3, 1, 1).bool(),
        torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.quint8),
        torch.nn.Parameter(torch.ones(1)),
        torch.zeros(1, dtype=torch.float8_e4m3fn),
        torch.tensor(1e300, dtype=torch.float64),
        torch.ones(1).bfloat16(),
    ]
)
odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**400, 10**5000]),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.just({}),
    st.sampled_from([NAMES, "cpu", torch.float32, torch.Size([1]), (), [[]], {"a": 1}, {0: {}}, {1: None}, "abs"]),
    odd_tensors,
)


@st.composite
def changed(draw, original: dict) -> dict:
    """A copy of nested dicts and lists with one to three values replaced, added or removed."""
    copy = _copy(original)
    for _ in range(draw(st.integers(1, 3))):
        parent = copy
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            key = draw(st.sampled_from(keys)) if keys else None
            inside = parent[key] if keys else None
            if not isinstance(inside, (dict, list)) or not inside or draw(st.integers(0, 4)) == 0:
                break
            parent = inside
        action = draw(st.integers(0, 5))
        if keys and action == 0:
            del parent[key]
        elif isinstance(parent, dict) and action == 1:
            new = st.one_of(st.text(max_size=5), st.integers(0, 3), st.just("fc.x"), st.just(f"module.{key}"))
            parent[draw(new)] = _copy(draw(odd_values))
        elif keys:
            parent[key] = _copy(draw(odd_values))
    return copy


def _copy(value):
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---- lists and class indices ----

INDEX = "1 Archery\n2 Diving\n3 TaiChi\n"
TRAIN = "Archery/v_Archery_g01_c01.avi 1\nDiving/v one (2).avi 2\nTaiChi/v_Tai.Chi-é.mp4 3\n"
TEST = "Archery/v_Archery_g02_c01.avi\nDiving/v one (3).avi\n"
ODD_LINES = [
    "Archery",
    "1 Archery",
    "2  Archery",
    "01 x",
    "Archery/a.avi 1",
    "a b/c d.avi",
    "../x.avi",
    "/",
    "//",
    "Archery/..",
    "Archery/.",
    "Archery/v_",
    "Archery/v_.avi",
    "Archery/\0.avi",
    "\ufeff",
    "x/Archery/b",
    "Archery/a\u0301.avi",
    "Archery/\u00e1.avi",
    "٣ Diving",
    "²  Diving",
    "9" * 5000 + " A",
    "Archery//b",
    "Archery\\a.avi",
    "\x1b[31m/a",
    "Archery/" + "a" * 300,
    "Archery/\x1b[31m",
    "Archery/\u202eb",
]
lines = st.lists(st.one_of(st.sampled_from(ODD_LINES), st.text(max_size=12)), max_size=5).map("\n".join)


def texts(original: str):
    """A text file's bytes: random lines, the original and more, the original damaged, or anything."""
    return st.one_of(
        lines.map(str.encode),
        lines.map(lambda text: (original + text).encode()),
        seeds.map(lambda seed: damage(original.encode(), seed)),
        st.binary(max_size=40),
        st.sampled_from([original.encode("utf-16"), original.encode("utf-8-sig")]),
        st.just(original.encode().replace(b"\n", b"\r")),
    )


@cases
@given(content=texts(INDEX))
def test_class_indices(folder, content):
    (folder / "classInd.txt").write_bytes(content)
    names = []
    if outcome(lambda: names.extend(read_class_index(folder / "classInd.txt"))):
        assert names and all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)


@cases
@given(
    index=st.one_of(st.just(INDEX.encode()), texts(INDEX)),
    train=texts(TRAIN),
    test=st.one_of(st.just(TEST.encode()), texts(TEST)),
)
def test_lists(folder, index, train, test):
    (folder / "images" / "Archery" / "a").mkdir(parents=True, exist_ok=True)
    for name, content in (("classInd15.txt", index), ("trainlist04.txt", train), ("testlist04.txt", test)):
        (folder / name).write_bytes(content)
    found = []
    if outcome(lambda: found.append(read_split(folder, "04", "classInd15.txt"))):
        videos = found[0].train + found[0].test
        assert len({video.name for video in videos}) == len(videos)
        assert all(found[0].classes[video.label] == video.class_name for video in videos)
        assert outcome(lambda: find_folders(folder / "images", videos))
        assert outcome(lambda: index_frames(folder / "images", videos))


# ---- images ----


def _jpegs() -> list[bytes]:
    ramp = np.add.outer(np.arange(24) * 8, np.arange(32) * 3).astype(np.uint8)
    image, encoded = Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], axis=2)), []
    for kind, mode, options in (
        ("JPEG", "RGB", {"quality": 90}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 1, "optimize": True}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("GIF", "P", {}),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **options)
        encoded.append(file.getvalue())
    return encoded


JPEGS = _jpegs()


@cases
@given(kind=st.integers(0, len(JPEGS) - 1), seed=seeds)
def test_images(folder, kind, seed):
    path = folder / "frame000007.jpg"
    path.write_bytes(damage(JPEGS[kind], seed))
    for read in (images.read_image, read_image):
        try:
            image = read(path)
        except images.BrokenImage as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            continue
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        image = torch.from_numpy(image)
        assert resize(image, 32, 32).shape == random_crop(image, 32, (0.5, 0.5), square=False).shape == (32, 32, 3)


# ---- keypoints ----

KEYPOINTS = {
    "keypoints": np.full((3, 18, 3), 0.5, np.float32),
    "frame": np.array([1, 2, 2], np.int32),
    "num_frames": np.int64(4),
    "frame_size": np.array([36, 48]),
}
odd_arrays = st.one_of(
    st.sampled_from(
        [
            np.zeros(0),
            np.zeros((0, 18, 3), np.float32),
            np.zeros((0, 18, 3)),
            np.zeros((3, 18, 3), np.float16),
            np.full((3, 18, 3), 1e300),
            np.full((3, 18, 3), np.nan),
            np.full((3, 18, 3), np.inf),
            np.full((3, 18, 3), -1.0),
            np.array(["a"]),
            np.array(b"x"),
            np.array([1, 2, 2.5]),
            np.array([2, 1, 1], np.uint64),
            np.array([2, 1, 2], ">i2"),
            np.array(2**63, np.uint64),
            np.array(0),
            np.array([[1, 2]]),
            np.array([0, 0]),
            np.array([65536, 1]),
            np.array([True, False]),
            np.array(None),
            np.array([1j]),
            np.array("2020-01-01", "M8[D]"),
            np.zeros(3, "f4,i4"),
            np.zeros((3, 18, 3), ">f4"),
            np.zeros((3, 18, 3), np.longdouble),
            np.full((3, 18, 3), [0.5, 0.5, 1e39]),
        ]
    ),
    st.integers(-(2**63), 2**64 - 1).map(np.array),
    st.floats().map(np.array),
)


def _npz(arrays: dict, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


@st.composite
def keypoint_files(draw):
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return damage(_npz(KEYPOINTS, compressed=True), draw(seeds))
    if kind == 1:
        arrays = dict(KEYPOINTS)
        for _ in range(draw(st.integers(1, 2))):
            arrays[draw(st.sampled_from([*KEYPOINTS, "more"]))] = draw(odd_arrays)
        return _npz(arrays)
    # The members damaged inside a sound archive.
    out, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(_npz(KEYPOINTS)))
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(out, "w", draw(st.sampled_from(methods))) as archive:
        target = draw(st.sampled_from(source.namelist()))
        for name in source.namelist():
            content = source.read(name)
            if name == target:
                content = damage(content[:140], draw(seeds)) + content[140:]
            archive.writestr(name, content)
    return out.getvalue() if kind == 2 else damage(out.getvalue(), draw(seeds))


@cases
@given(content=keypoint_files())
def test_keypoint_files(folder, content):
    path = folder / "keypoints.npz"
    path.write_bytes(content)
    loaded = []
    if outcome(lambda: loaded.append(load_keypoints(path))):
        data = loaded[0]
        assert data.keypoints.dtype == np.float32 and np.isfinite(data.keypoints).all() and len(data.frame_size) == 2
        for frame in {1, data.num_frames, *data.frame.tolist()}:
            assert len(people_of_frame(data, frame)) == data.frame.tolist().count(frame)


# ---- checkpoints and starting weights ----


class Small(torch.nn.Module):
    """The layers that tell a ResNet-18 by, one weight each: as `network.build_network`, in microseconds."""

    def __init__(self, arch, in_channels, classes):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(in_channels, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(1)
        for number in (1, 2, 3, 4):
            blocks = [torch.nn.Conv2d(1, 1, 1, bias=False) for _ in range(2)]
            self.add_module(f"layer{number}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(1, classes)


def training_state(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return optimizer, ReduceLROnPlateau(optimizer, "min", patience=1), torch.amp.GradScaler("cpu", enabled=True)


def step(network, optimizer, scheduler, scaler):
    """What an epoch does with the state."""
    optimizer.zero_grad()
    loss = sum(parameter.sum() for group in optimizer.param_groups for parameter in group["params"])
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step(1.0)
    scheduler.step(float("nan"))
    return optimizer.state_dict(), scheduler.state_dict(), scaler.state_dict()


def _checkpoint() -> dict:
    network = Small("resnet18", 3, 3)
    optimizer, scheduler, scaler = training_state(network)
    optimizer_state, scheduler_state, scaler_state = step(network, optimizer, scheduler, scaler)
    return {
        "epoch": 2,
        "arch": "resnet18",
        "classes": NAMES,
        "in_channels": 3,
        "image_size": 32,
        "seed": 0,
        "state_dict": dict(network.state_dict()),
        "optimizer": optimizer_state,
        "scheduler": scheduler_state,
        "scaler": scaler_state,
        "best_prec1": 50.0,
        "batch_size": 4,
        "split": "04",
        "val_groups": [],
    }


CHECKPOINT = _checkpoint()


def saved(content, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def with_damaged_pickle(data: bytes, seed: int) -> bytes:
    """The file of torch with the pickle inside its zip archive damaged, checksums right."""
    out, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data))
    with zipfile.ZipFile(out, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, damage(content, seed) if name.endswith("data.pkl") else content)
    return out.getvalue()


ZIPPED, LEGACY = saved(CHECKPOINT), saved(CHECKPOINT, legacy=True)
FEW = {"state_dict": {"conv1.weight": torch.zeros(1, 3, 1, 1)}, "epoch": 1, "best_prec1": torch.tensor(1.0)}
few_zipped, few_legacy = saved(FEW), saved(FEW, legacy=True)
checkpoint_files = st.one_of(
    changed(CHECKPOINT).map(saved),
    changed({name: CHECKPOINT[name] for name in ("epoch", "state_dict", "best_prec1", "optimizer")}).map(saved),
    seeds.map(lambda seed: damage(ZIPPED, seed)),
    seeds.map(lambda seed: with_damaged_pickle(ZIPPED, seed)),
    seeds.map(lambda seed: damage(LEGACY, seed)),
    seeds.map(lambda seed: damage(LEGACY[:3000], seed) + LEGACY[3000:]),
    seeds.map(lambda seed: with_damaged_pickle(few_zipped, seed)),
    seeds.map(lambda seed: damage(few_legacy, seed)),
    st.one_of(odd_values, st.binary(max_size=50)).map(pickle.dumps),
    odd_values.map(saved),
)


def resume(path: Path) -> None:
    """What `--resume` does with the file, up to the first steps of training."""
    args = argparse.Namespace(resume=path, arch=None, image_size=None, seed=None, class_index="classInd15.txt")
    model = stream.make_model(args, STREAM, NAMES, Processes())
    optimizer, scheduler, scaler = training_state(model.network)
    epoch, best = go_on_from(model.checkpoint, path, optimizer, scheduler, scaler)
    assert type(epoch) is int and epoch >= 0 and np.isfinite(best)
    assert type(model.image_size) is int and 32 <= model.image_size < 10**5 and type(model.seed) is int
    step(model.network, optimizer, scheduler, scaler)


@cases
@given(content=checkpoint_files)
def test_checkpoints(folder, content):
    path = folder / "checkpoint.pth.tar"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "build_network", Small)
        patch.setattr(classify, "build_network", Small)
        patch.setattr(classify, "for_testing", lambda network: network)
        resumed = outcome(lambda: resume(path))
        (folder / "classInd15.txt").write_text(INDEX)
        index, device = folder / "classInd15.txt", torch.device("cpu")
        classified = outcome(lambda: classify.load_classifier(path, STREAM, index, device))
        assert classified or not resumed


IMAGENET = dict(CHECKPOINT["state_dict"]) | {"fc.weight": torch.zeros(5, 1), "fc.bias": torch.zeros(5)}
TENSORS = save_safetensors({name: tensor.clone() for name, tensor in IMAGENET.items()})
ends = {"pth": saved(IMAGENET), "legacy": saved(IMAGENET, legacy=True)}
weights_files = st.one_of(
    st.tuples(
        st.just("pth"),
        st.one_of(
            changed(IMAGENET).map(saved),
            changed({"state_dict": IMAGENET}).map(saved),
            odd_values.map(saved),
            seeds.map(lambda seed: damage(ends["pth"], seed)),
            seeds.map(lambda seed: damage(ends["legacy"], seed)),
            seeds.map(lambda seed: with_damaged_pickle(ends["pth"], seed)),
        ),
    ),
    st.tuples(
        st.just("safetensors"),
        st.one_of(
            seeds.map(lambda seed: damage(TENSORS, seed)),
            seeds.map(lambda seed: damage(TENSORS[:300], seed) + TENSORS[300:]),
            st.binary(max_size=40),
            seeds.map(lambda seed: damage(save_safetensors({"a": torch.ones(3)}), seed)),
            st.sampled_from([torch.int64, torch.bool, torch.bfloat16, torch.float64, torch.float8_e4m3fn]).map(
                lambda dtype: save_safetensors({name: tensor.to(dtype).clone() for name, tensor in IMAGENET.items()})
            ),
            odd_tensors.filter(
                lambda tensor: (
                    tensor.layout == torch.strided
                    and tensor.device.type == "cpu"
                    and tensor.numel() < 100
                    and not tensor.is_quantized
                )
            ).map(
                lambda tensor: save_safetensors(
                    {
                        **{name: entry.clone() for name, entry in IMAGENET.items()},
                        "conv1.weight": tensor.detach().clone(),
                    }
                )
            ),
        ),
    ),
)


@cases
@given(file=weights_files, channels=st.sampled_from([3, 30]))
def test_starting_weights(folder, file, channels):
    ending, content = file
    path = folder / f"weights.{ending}"
    path.write_bytes(content)
    network = Small("resnet18", channels, 3)
    if outcome(lambda: load_starting_weights(network, "resnet18", str(path))):
        assert all(tensor.layout == torch.strided for tensor in network.state_dict().values())


# ---- caches and records ----

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("v_A_g01_c01")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@cases
@given(data=st.data())
def test_frame_count_caches(folder, data):
    root = folder / "frames"
    video = root / "v_A_g01_c01"
    if not video.exists():
        video.mkdir(parents=True)
        (video / "frame000001.jpg").touch()
        os.utime(video, (10**9, 10**9))
    stamp = 10**18
    sound = json.dumps({"v_A_g01_c01": [stamp, 1]}).encode()
    entry = st.one_of(json_values, st.tuples(st.just(stamp), json_values).map(list))
    content = data.draw(
        st.one_of(
            json_values.map(json.dumps).map(str.encode),
            seeds.map(lambda seed: damage(sound, seed)),
            st.binary(max_size=30),
            entry.map(lambda value: json.dumps({"v_A_g01_c01": value, "x": value}).encode()),
            st.sampled_from(
                [b"[" * 5000, b'{"a":' * 5000, b"1" * 5000, b'{"v_A_g01_c01": [1' + b"0" * 18 + b", 1e3]}"]
            ),
        )
    )
    (root / CACHE_NAME).write_bytes(content)
    result = []
    assert outcome(lambda: result.append(index_frames(root, [Video("A_g01_c01", 0, "A", "A/v_A_g01_c01.avi")])))
    (good,), bad = result[0]
    assert not bad and good.num_frames >= 1
    starts = starts_of(good.num_frames)
    assert all(1 <= frame <= good.num_frames for frame in stack_indices(starts[-1], good.num_frames))


RECORD = "Epoch,Batch Time,Data Time,Loss,Prec@1,Prec@3,lr\n0,0.1,0.05,1.2,33.3,100.0,0.01\n1,0.1,0.05,nan,50,100,0.1\n"
ROW = {"Epoch": 2, "Batch Time": 0.1, "Data Time": 0.1, "Loss": 1.5, "Prec@1": 20.0, "Prec@3": 60.0, "lr": 0.01}
cells = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "1e400",
        "nan",
        "x",
        "1.5",
        "0x10",
        "1,2",
        '"',
        "9" * 40,
        "True",
        "1e300",
        "2020-01-01",
        "é",
        "\0",
        "1_000",
        " 3 ",
        "inf",
        "1j",
        "Epoch",
        "-1e308",
        "1e-320",
    ]
)


@st.composite
def record_files(draw):
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return damage(RECORD.encode(), draw(seeds))
    if kind == 1:
        return draw(st.one_of(st.binary(max_size=40), lines.map(str.encode)))
    rows = [line.split(",") for line in RECORD.split("\n")[:-1]]
    for _ in range(draw(st.integers(1, 4))):
        row = rows[draw(st.integers(0 if kind == 3 else 1, 2))]
        row[draw(st.integers(0, len(row) - 1))] = draw(cells)
    return "\n".join(map(",".join, rows)).encode()


@cases
@given(content=record_files())
def test_records(folder, content):
    path = folder / "rgb_train.csv"
    path.write_bytes(content)
    if outcome(lambda: write_record(path, ROW)):
        assert outcome(lambda: write_record(path, ROW | {"Epoch": 3}))
        last = read_record(path)[-1]
        assert {name: float(last[name]) for name in ROW} == ROW | {"Epoch": 3}
    else:
        assert path.read_bytes() == content


@settings(cases, max_examples=cases.max_examples // 20)
@given(content=record_files())
def test_curves_of_records(folder, content):
    (folder / "train.csv").write_bytes(content)
    (folder / "test.csv").write_text(RECORD)
    assume(content.startswith(b"Epoch,"))
    outcome(lambda: plot_curves(folder / "train.csv", folder / "test.csv", folder / "curves.png"))
