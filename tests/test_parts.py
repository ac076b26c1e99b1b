"""The skeleton stream in predict.py: the scores of the scripts, and the picture of parts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dataloader.skeleton_dataloader import MOMENTS, normalized_paths, skeleton_clips, skeleton_input
from fusion.scores import load_scores
from network import Model
from pose.graph_network import GRAPH_NETWORKS
from pose.keypoints import FILE_NAME, load_keypoints
from prediction.parts import part_relevance, people_window, shown_frames
from tests.helpers import CLASSES, call_main, moving, train_script, write_video
from tests.test_network import random_statistics
from utils import save_checkpoint


def random_model() -> Model:
    torch.manual_seed(0)
    network = random_statistics(GRAPH_NETWORKS.build("stgcnpp_small", 11, len(CLASSES))).eval()
    return Model(network, "stgcnpp_small", None, list(CLASSES))


def test_relevance_is_the_derivative_times_the_input(tiny):
    model, keypoints = random_model(), load_keypoints(tiny / "skeletons" / "Diving_g05_c01" / FILE_NAME)
    relevance = part_relevance(model, keypoints, 1)
    assert relevance.shape == (2, MOMENTS, 18)
    model.network.double()
    sample = skeleton_clips(normalized_paths(keypoints))
    inputs = skeleton_input(sample.images, sample.index).double()
    person, moment, part = np.unravel_index(np.abs(relevance).argmax(), relevance.shape)
    step = torch.zeros_like(inputs)
    step[:, person, :, moment, part] = 1e-5 * inputs[:, person, :, moment, part]
    with torch.inference_mode():
        logits = [model.network(inputs + sign * step).mean(0) for sign in (1, -1)]
        more, less = ((values[1] - values.mean()).item() for values in logits)
    assert relevance[person, moment, part] == pytest.approx((more - less) / 2e-5, rel=1e-2)


@pytest.mark.parametrize("frames", [1, 5, 300])
def test_shown_frames(frames):
    shown = shown_frames(frames)
    assert len(shown) == min(frames, 8) and 1 <= min(shown) <= max(shown) <= frames
    assert all(abs((moment + 0.5) / MOMENTS * frames - number) <= 1 for number, moment in shown.items())


def test_the_window_holds_the_people_and_stays_in_the_frame():
    people = np.zeros((2, 3, 18, 3), np.float32)
    assert people_window(people) == (0, 1, 0, 1)  # nobody
    people[0, 1, 4] = 0.9, 0.5, 1
    people[0, 2, 5] = 0.95, 0.1, 1
    people[1, 0, 0] = 0.2, 0.2, 0  # a part that was not found does not count
    left, right, top, bottom = people_window(people)
    assert 0.6 < left < 0.9 and 0.95 < right <= 1 and 0 <= top < 0.1 and 0.5 < bottom < 0.7
    assert right - left == pytest.approx(1 / 3)
    people[1, 0, 0] = 0.0, 1.0, 1
    assert people_window(people) == (0, 1, 0, 1)


def test_predict_gives_the_scores_of_the_script_and_the_picture(tiny, tmp_path):
    model = random_model()
    checkpoint = {"epoch": 1, "arch": model.arch, "classes": model.classes, "in_channels": 11, "best_prec1": 0.0}
    save_checkpoint(tmp_path / "s.tar", checkpoint | {"state_dict": model.network.state_dict()})
    finished = train_script("skeleton", tiny, tmp_path / "r", "--resume", tmp_path / "s.tar", "--evaluate", inline=True)
    assert finished.returncode == 0, finished.stderr
    expected = load_scores(tmp_path / "r" / "skeleton_video_preds.pickle")
    videos = [tmp_path / f"{name}.avi" for name in ("Diving_g01_c01", "TaiChi_g02_c01")]
    for video in videos:
        write_video(video, moving(load_keypoints(tiny / "skeletons" / video.stem / FILE_NAME).num_frames, (48, 36)))
    outputs = ("--json", tmp_path / "out.json", "--parts", tmp_path / "parts.png")
    source = ("--skeleton", tmp_path / "s.tar", "--keypoints", tiny / "skeletons", "--device", "cpu", "--no-amp")
    finished = call_main("predict", *videos, *source, *outputs)
    assert finished.returncode == 0, finished.stderr
    for video, result in zip(videos, json.loads((tmp_path / "out.json").read_text())["videos"], strict=True):
        logits = result["streams"]["skeleton"]["logits"]
        assert [logits[name] for name in CLASSES] == pytest.approx(expected[video.stem].tolist(), abs=1e-4)
        picture = np.asarray(Image.open(tmp_path / f"parts-{video.stem}.png").convert("RGB")).astype(int)
        red, blue = ((picture[..., i] - picture[..., 2 - i] > 60).mean() for i in (0, 2))
        assert red > 0.001 and blue > 0.001
