import json
import pickle
import shlex

import numpy as np
import pytest

from common.records import read_record, write_record
from pose.coco import COCO_PARTS
from pose.keypoints import load_keypoints, people_of_frame, save_keypoints
from tests.helpers import ROOT, assert_error, call_main, fast, write_images

SIZE = 120, 160
# COCO's name of each part, in its order, and OpenPose's numbers of them.
COCO = "nose l_eye r_eye l_ear r_ear l_sho r_sho l_elb r_elb l_wri r_wri l_hip r_hip l_kne r_kne l_ank r_ank".split()
OPENPOSE = (
    "nose neck r_sho r_elb r_wri l_sho l_elb l_wri r_hip r_kne r_ank l_hip l_kne l_ank r_eye l_eye r_ear l_ear".split()
)
BODY_25 = [*OPENPOSE[:8], "mid_hip", *OPENPOSE[8:], "l_big_toe", *["foot"] * 5]


def convert(*arguments):
    return call_main("convert_poses", *arguments)


def made_up(frames=8, people=2, seed=0):
    """(frames, people, 17, 3) in pixels: nobody in frame 3, the second person from frame 5 on, some parts missing."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(10, 100, (frames, people, 17, 3))
    values[..., 2] = generator.uniform(0.5, 1, values.shape[:3])
    values[generator.random(values.shape[:3]) < 0.1] = 0
    values[2], values[:4, 1:] = 0, 0
    return values.astype(np.float16).astype(float)  # as PYSKL stores them


def in_order(person, order):
    """COCO's parts (17, 3) in another program's order; the neck between the shoulders, others missing."""
    parts = dict(zip(COCO, person, strict=True))
    both = parts["l_sho"][2] and parts["r_sho"][2]
    parts["neck"] = [*(parts["l_sho"] + parts["r_sho"])[:2] / 2, 0.7] if both else np.zeros(3)
    return np.array([parts.get(name, np.zeros(3)) for name in order])


def there(values):
    return [[person for person in people if person.any()] for people in values]


def write_openpose(folder, values, order, key="pose_keypoints_2d", name="v_Walk_g01_c01_{:012d}"):
    folder.mkdir(parents=True)
    for number, people in enumerate(there(values)):
        content = {"version": 1.3, "people": [{key: in_order(person, order).ravel().tolist()} for person in people]}
        (folder / (name.format(number) + "_keypoints.json")).write_text(json.dumps(content))


def write_yolo(folder, values, scores=True, tail=""):
    folder.mkdir(parents=True)
    for number, people in enumerate(there(values), 1):
        lines = []
        for person in people:
            parts = (person / (*SIZE[::-1], 1))[:, : 2 + scores]
            lines.append(" ".join(["0 0.5 0.5 0.4 0.8", *(f"{value:.7g}" for value in parts.ravel())]) + tail)
        if lines:
            (folder / f"v_Walk_g01_c01_{number}.txt").write_text("\n".join(lines) + "\n")


def coco_people(values, first=1):
    rows = [(number, person) for number, people in enumerate(there(values), first) for person in people]
    return [{"image_id": number, "keypoints": person.ravel().tolist(), "score": 0.9} for number, person in rows]


def write_coco(path, values):
    images = [
        {"id": number, "file_name": f"v_Walk_g01_c01/frame{number:06d}.jpg", "height": 120, "width": 160}
        for number in range(len(values), 0, -1)
    ]
    path.write_text(json.dumps({"images": images, "annotations": coco_people(values), "categories": []}))


def write_results(path, values, alphapose=False):
    results = coco_people(values, first=0 if alphapose else 1)
    for person in results if alphapose else ():
        person["image_id"] = f"{person['image_id']}.jpg"
        person["keypoints"] += [0.5] * 9 * 3  # Halpe's other parts
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))


def annotation(values, name="v_Walk_g01_c01", parts=COCO, label=0):
    values = np.array([[in_order(person, parts) for person in people] for people in values]).swapaxes(0, 1)
    described = {"frame_dir": name, "label": label, "img_shape": SIZE, "original_shape": SIZE}
    described |= {"total_frames": values.shape[1], "keypoint": values[..., :2].astype(np.float16)}
    return described | {"keypoint_score": values[..., 2].astype(np.float16)}


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def assert_people(path, values, tolerance=1e-5, scores=True):
    """The keypoints in `path` are the people of `made_up`, parts in their places."""
    keypoints = load_keypoints(path)
    assert keypoints.frame_size == SIZE
    assert keypoints.num_frames == len(values)
    for number, people in enumerate(there(values), 1):
        found = people_of_frame(keypoints, number)
        assert len(found) == len(people), number
        for person, expected in zip(found, people, strict=True):
            got = person[list(COCO_PARTS)]
            np.testing.assert_allclose(got[:, :2] * SIZE[::-1], expected[:, :2], atol=tolerance * 160)
            np.testing.assert_allclose(got[:, 2], expected[:, 2] if scores else expected[:, 2] > 0, atol=tolerance)
            left, right = (expected[COCO.index(name)] for name in ("l_sho", "r_sho"))
            assert bool(person[1, 2]) == bool(left[2] and right[2])
            if person[1, 2]:
                np.testing.assert_allclose(person[1, :2] * SIZE[::-1], (left + right)[:2] / 2, atol=tolerance * 160)


# ---- there ----


@pytest.mark.parametrize(
    "source",
    ["openpose_body25", "openpose_coco18", "coco17", "yolo_pose", "pyskl/nobody_in_three_frames.pkl"]
    + ["pyskl/nan_where_missing.pkl", "pyskl/two_people_second_absent.pkl"],
)
def test_files_of_other_programs_are_within_a_pixel(shared, tmp_path, source):
    tell = () if source.startswith(("coco", "pyskl")) else ("--videos", shared / "cases/poses/video")
    assert convert(shared / "cases/poses" / source, tmp_path / "out", *tell).returncode == 0
    truth = np.load(shared / "cases/poses/truth.npz")["coco17"]
    values = np.nan_to_num(np.concatenate((truth, np.isfinite(truth[..., :1])), axis=-1))[:, None]
    keypoints = load_keypoints(tmp_path / "out/Walk_g01_c01/keypoints.npz")
    assert not {4, 5, 6} & set(keypoints.frame.tolist())
    kept = keypoints.keypoints * np.array((1, 1, 0)) + (keypoints.keypoints[..., 2:] > 0) * np.array((0, 0, 1))
    save_keypoints(tmp_path / "kept.npz", kept, keypoints.frame, keypoints.num_frames, keypoints.frame_size)
    assert_people(tmp_path / "kept.npz", values, 1 / 160)


def test_every_form_gives_the_same_people(tmp_path):
    values, size = made_up(), ("--size", "120x160")
    write_openpose(tmp_path / "body25", values, BODY_25)
    write_openpose(tmp_path / "coco18/v_Walk_g01_c01", values, OPENPOSE, "pose_keypoints", "{:012d}")
    write_yolo(tmp_path / "yolo/labels", values)
    write_yolo(tmp_path / "yolo_tracked", values, tail=" 0.9 7")
    write_yolo(tmp_path / "yolo_plain", values, scores=False)
    write_coco(tmp_path / "coco.json", values)
    write_results(tmp_path / "results/v_Walk_g01_c01.json", values)
    write_results(tmp_path / "alphapose/v_Walk_g01_c01/alphapose-results.json", values, alphapose=True)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([annotation(values)], protocol=0))
    write_pickle(tmp_path / "coco18.pkl", [annotation(values, "data/v_Walk_g01_c01.avi", OPENPOSE)])
    for source, tell in [
        *(("body25", size), ("coco18", size), ("yolo", size), ("yolo_tracked", size), ("yolo_plain", size)),
        *(("coco.json", ()), ("results", size), ("alphapose", size), ("list.pkl", ()), ("coco18.pkl", ())),
    ]:
        out = tmp_path / "out" / source.replace(".", "_")
        finished = convert(tmp_path / source, out, *tell)
        assert finished.returncode == 0, finished.stderr
        path = out / "Walk_g01_c01/keypoints.npz"
        assert_people(path, values, 3e-4 if source == "coco18.pkl" else 1e-5, scores=source != "yolo_plain")


def test_visibility_becomes_a_score_and_weak_parts_can_go(tmp_path):
    values = made_up()
    values[..., 2] = np.where(values[..., 2] > 0, np.where(values[..., 2] > 0.75, 2, 1), 0)
    write_coco(tmp_path / "coco.json", values)
    convert(tmp_path / "coco.json", tmp_path / "out")
    values[..., 2] /= 2
    assert_people(tmp_path / "out/Walk_g01_c01/keypoints.npz", values)
    convert(tmp_path / "coco.json", tmp_path / "out", "--part-score", "0.6")
    assert_people(tmp_path / "out/Walk_g01_c01/keypoints.npz", values * (values[..., 2:] > 0.6))


def test_frames_tell_size_and_number(tmp_path):
    """Frames of 48x36, 10 a second; the last ones show nobody, and have no file."""
    name, count = "v_Diving_g03_c01", 12
    write_images(tmp_path / "frames" / name, count, 0, (48, 36), 0)
    write_record(tmp_path / "frames" / name, {"frames": {"fps": 10}, "count": count})
    (tmp_path / "labels").mkdir()
    line = "0 .5 .5 .5 .5 " + "0.25 0.5 0.9 " * 17
    for number in (2, 10):
        (tmp_path / f"labels/{name}_{number}.txt").write_text(line)
    assert convert(tmp_path / "labels", tmp_path / "out", "--frames", tmp_path / "frames").returncode == 0
    keypoints = load_keypoints(tmp_path / "out/Diving_g03_c01/keypoints.npz")
    assert keypoints.num_frames == count
    assert keypoints.frame_size == (36, 48)
    assert keypoints.frame.tolist() == [2, 10]
    assert read_record(tmp_path / "out/Diving_g03_c01") == {"frames": {"fps": 10}, "people": {"model": "yolo"}}
    (tmp_path / f"labels/{name}_{count + 1}.txt").write_text(line)
    finished = convert(tmp_path / "labels", tmp_path / "other", "--frames", tmp_path / "frames")
    assert_error(finished, name, f"frame {count + 1} of {count}")


# ---- and back ----


def test_there_and_back_loses_nothing_but_the_neck(tmp_path):
    """Three people who come, go and pass each other, in float32 as networks give them."""
    generator = np.random.default_rng(1)
    people = generator.random((40, 3, 18, 3)).astype(np.float32) * (0.1, 0.3, 0.9) + np.float32(0.05)
    people[..., 0] += np.linspace((0, 0.4, 0.8), (0.8, 0.4, 0), 40)[:, :, None]
    people[generator.random((40, 3, 18)) < 0.2] = 0
    people = people.astype(np.float32)
    shown = generator.random((40, 3)) < 0.8
    frame = np.repeat(np.arange(1, 41), 3)[shown.ravel()]
    for name in ("Walk_g01_c01", "Class/same", "Other/same"):
        save_keypoints(tmp_path / f"in/{name}/keypoints.npz", people[shown], frame, 45, (256, 341))
    assert convert(tmp_path / "in", tmp_path / "all.pkl", "--form", "pyskl").returncode == 0
    assert convert(tmp_path / "all.pkl", tmp_path / "out").returncode == 0
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 3
    before, after = (load_keypoints(tmp_path / f"{folder}/Other/same/keypoints.npz") for folder in ("in", "out"))
    assert (after.num_frames, after.frame_size) == (45, (256, 341))
    np.testing.assert_array_equal(after.frame, before.frame)
    for number in range(1, 46):
        one, other = (people_of_frame(keypoints, number)[:, list(COCO_PARTS)] for keypoints in (before, after))
        one, other = (sorted(person.tobytes() for person in people) for people in (one, other))
        assert one == other
    content = pickle.loads((tmp_path / "all.pkl").read_bytes())  # made here
    assert content[0]["keypoint"].dtype == np.float64


def test_back_and_there_gives_the_same_annotations(tmp_path):
    values = made_up(20, 1)
    values[:, 0, :, :2] = values[:1, 0, :, :2] * (values[:, 0, :, 2:] > 0)  # one person, who stands
    item = annotation(values)
    convert(write_pickle(tmp_path / "a.pkl", [item]), tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "b.pkl")
    (other,) = pickle.loads((tmp_path / "b.pkl").read_bytes())  # made here
    for key in ("img_shape", "original_shape", "total_frames"):
        assert other[key] == item[key]
    for key in ("keypoint", "keypoint_score"):
        assert other[key].dtype == np.float16
        np.testing.assert_array_equal(other[key], item[key])


def test_a_row_is_a_person(tmp_path):
    """Two people in either order in each frame; the larger one is the first row."""
    large, small = made_up()[0, 0] * (1, 1, 0) + (0, 0, 1), np.tile((120.0, 80.0, 1.0), (17, 1))
    small[:, :2] += np.arange(34).reshape(17, 2) / 4
    rows = [[large, small] if number % 3 else [small, large] for number in range(12)]
    write_openpose(tmp_path / "poses", np.array(rows), BODY_25)
    convert(tmp_path / "poses", tmp_path / "out", "--size", "120x160")
    convert(tmp_path / "out", tmp_path / "all.pkl")
    (item,) = pickle.loads((tmp_path / "all.pkl").read_bytes())  # made here
    expected = np.stack((np.tile(large[:, :2], (12, 1, 1)), np.tile(small[:, :2], (12, 1, 1))))
    np.testing.assert_allclose(item["keypoint"], expected, atol=0.1)


# ---- lists, and training ----


def ucf101_pickle(path):
    """Two classes of UCF101 and its split names, 3 videos each."""
    classes, items, names = {"Archery": 2, "HandstandPushups": 36}, [], {"train1": [], "test1": [], "train2": []}
    for place, (name, label) in enumerate(classes.items()):
        for group in range(1, 4):
            values = made_up(12, seed=20 * place + group)
            values[..., 1] += 8 * np.sin(np.arange(12) * (1 + place))[:, None, None] * (values[..., 2] > 0)
            spelled = name.replace("Handstand", "HandStand")
            items.append(annotation(values, f"v_{spelled}_g{group:02d}_c01", label=label))
            names["test1" if group < 2 else "train1"].append(items[-1]["frame_dir"])
    names["train2"] = names["test1"] + ["v_Archery_g09_c09"]  # of which the file has no poses
    return write_pickle(path, {"split": names, "annotations": items})


def test_ucf101_by_the_commands_of_the_readme(tmp_path, monkeypatch):
    """What README says of PYSKL's file trains the skeleton stream, on a file made up here."""
    lines = (ROOT / "README.md").read_text().replace("\\\n", " ").splitlines()
    convert_line, train_line = (
        next(line for line in lines if line.startswith(start))
        for start in ("python convert_poses.py ucf101_hrnet.pkl", "python skeleton_gcn_15.py --data data/ucf101_pyskl")
    )
    ucf101_pickle(tmp_path / "ucf101_hrnet.pkl")
    (tmp_path / "UCF_list").symlink_to(ROOT / "UCF_list")
    monkeypatch.chdir(tmp_path)
    for line in (convert_line, train_line + " --epochs 1 --least-steps 0 " + " ".join(fast("skeleton"))):
        _, script, *arguments = shlex.split(line, comments=True)
        finished = call_main(script.removesuffix(".py"), *arguments)
        assert finished.returncode == 0, finished.stderr
    assert "Prec@1" in finished.stdout
    lists = tmp_path / "data/ucf101_lists"
    assert (lists / "trainlist01.txt").read_text().splitlines()[
        -1
    ] == "HandstandPushups/v_HandStandPushups_g03_c01.avi 37"
    assert (lists / "classInd.txt").read_text() == (ROOT / "UCF_list/classInd.txt").read_text()
    options = ("--ucf-list", lists, "--split", "01", "--class-index", lists / "classInd.txt")
    assert convert(tmp_path / "data/ucf101_pyskl", tmp_path / "back.pkl", *options).returncode == 0
    before, after = (pickle.loads((tmp_path / name).read_bytes()) for name in ("ucf101_hrnet.pkl", "back.pkl"))
    plain = {part: [name.removeprefix("v_") for name in before["split"][part]] for part in ("train1", "test1")}
    assert after["split"] == plain
    labels = {item["frame_dir"].removeprefix("v_"): item["label"] for item in before["annotations"]}
    assert {item["frame_dir"]: item["label"] for item in after["annotations"]} == labels


def test_lists_of_other_splits(tmp_path):
    splits = {"xsub_train": ["a"], "xsub_val": ["b"], "train": ["a"], "val": ["b"], "test": ["c"]}
    items = [annotation(made_up(), name, label=place % 2) for place, name in enumerate("abc")]
    write_pickle(tmp_path / "ntu.pkl", {"split": splits, "annotations": items})
    convert(tmp_path / "ntu.pkl", tmp_path / "out", "--lists", tmp_path / "lists")
    written = {path.name: path.read_text().split() for path in (tmp_path / "lists").iterdir()}
    a, b, c = ["class000/v_a.avi", "1"], ["class001/v_b.avi", "2"], ["class000/v_c.avi", "1"]
    expected = {
        "trainlistxsub.txt": a,
        "testlistxsub.txt": b,
        "trainlist01.txt": a,
        "vallist01.txt": b,
        "testlist01.txt": c,
    }
    assert written == expected | {"classInd.txt": ["1", "class000", "2", "class001"]}


# ---- what is refused ----


class Gadget:
    def __reduce__(self):
        return print, ("run",)


def bad_inputs(folder):
    """Name, arguments and words of the message of inputs that are refused."""
    values, size = made_up(), ("--size", "120x160")
    (folder / "empty").mkdir()
    (folder / "words.txt").write_text("no poses")
    yield "nothing", (folder / "none",), ("none", "openpose", "pyskl")
    yield "empty folder", (folder / "empty",), ("empty", "yolo")
    yield "text", (folder / "words.txt",), ("words.txt", "alphapose")
    yield "empty as yolo", (folder / "empty", "--form", "yolo"), ("no videos",)
    write_openpose(folder / "people", values, BODY_25)
    yield "no size", (folder / "people",), ("--size", "v_Walk_g01_c01")
    yield "other frames", (folder / "people", "--size", "40x50"), ("50x40", "outside")
    yield "another form", (folder / "people", *size, "--form", "coco"), ("form coco",)
    (folder / "people/v_Walk_g01_c01_000000000001_keypoints.json").write_text("{")
    yield "damaged", (folder / "people", *size), ("000000000001_keypoints.json", "JSON")
    write_openpose(folder / "mpi", values, BODY_25[:15])
    yield "15 parts", (folder / "mpi", *size), ("15 parts",)
    write_openpose(folder / "mixed/v_Walk_g01_c01", values, BODY_25)
    write_openpose(folder / "mixed/v_Walk_g01_c01/more", values, BODY_25)
    write_openpose(folder / "in_one/v_A", values, BODY_25, name="frame{}")
    (folder / "in_one/v_A/v_B_000000000000_keypoints.json").write_text('{"people": []}')
    yield "several videos", (folder / "in_one", *size), ("v_A", "several videos")
    write_openpose(folder / "twice", values, BODY_25)
    (folder / "twice/v_Walk_g01_c01_3_keypoints.json").write_text('{"people": []}')
    yield "a frame twice", (folder / "twice", *size), ("v_Walk_g01_c01_3_keypoints.json", "frame 3")
    write_yolo(folder / "short", values, tail=" 1 2 3")
    yield "long lines", (folder / "short", *size), ("59 numbers",)
    write_coco(folder / "sizes.json", values)
    text = (folder / "sizes.json").read_text()
    (folder / "sizes.json").write_text(text.replace('"width": 160', '"width": 200', 1))
    yield "several sizes", (folder / "sizes.json",), ("several sizes",)
    yield (
        "another shape",
        (write_pickle(folder / "a.pkl", [annotation(values)]), "--size", "120x120"),
        ("160x120", "120x120"),
    )
    for name, change, words in (
        ("3d", {"keypoint": np.zeros((1, 8, 25, 3))}, ("3-D", "(1, 8, 25, 3)")),
        ("ntu", {"keypoint": np.zeros((1, 8, 25, 2))}, ("(1, 8, 25, 2)",)),
        ("up", {"frame_dir": "../.."}, ("'..'",)),
        ("length", {"total_frames": 6}, ("frame 8 of 6",)),
        ("array", {"keypoint": [1, 2]}, ("form pyskl",)),
        ("flat", {"img_shape": (0, 0)}, ("form pyskl",)),
        ("code", {"label": Gadget()}, ("builtins.print", "nothing was run")),
    ):
        items = [annotation(values, "first"), annotation(values) | change]
        yield name, (write_pickle(folder / f"{name}.pkl", items),), words
    yield "no splits", (folder / "a.pkl", "--lists", folder / "out/lists"), ("no splits",)
    ucf101_pickle(folder / "ucf.pkl")
    index = ("--lists", folder / "out/lists", "--class-index", ROOT / "UCF_list/classInd15.txt")
    yield "another class index", (folder / "ucf.pkl", *index), ("Archery_g01_c01", "label 2", "classInd15.txt")


def test_bad_input_ends_in_one_line_and_writes_nothing(tmp_path):
    for name, arguments, words in bad_inputs(tmp_path):
        finished = convert(arguments[0], tmp_path / "out", *arguments[1:])
        assert finished.stdout == "", name
        assert_error(finished, *words)
        assert not list(tmp_path.rglob("*.npz")) and not (tmp_path / "out/lists").exists(), name
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True, name


def test_folders_of_a_network_are_kept(tmp_path):
    """Poses of other origin do not go into a folder of poses."""
    path = write_pickle(tmp_path / "a.pkl", [annotation(made_up())])
    assert convert(path, tmp_path / "out").returncode == 0
    assert convert(path, tmp_path / "out").returncode == 0
    write_coco(tmp_path / "coco.json", made_up(seed=1))
    before = (tmp_path / "out/Walk_g01_c01/keypoints.npz").read_bytes()
    assert_error(convert(tmp_path / "coco.json", tmp_path / "out"), "pyskl", "coco")
    assert (tmp_path / "out/Walk_g01_c01/keypoints.npz").read_bytes() == before
