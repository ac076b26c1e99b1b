"""app.py: the page says what predict.py says, bears bad uploads, forgets files, and works in a real browser."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

import app as script
from common.video import duration
from tests.helpers import ROOT, assert_error, call_main, read_video, write_video
from tests.live_sources import wait_for
from tests.pose_fixtures import save_network
from tests.prediction_data import COLOUR_CLASSES as CLASSES
from tests.prediction_data import (
    FRAMES,
    coloured,
    fake_estimator,
    write_checkpoint,
    write_colour_network,
    write_skeleton_checkpoint,
)

KEPT = 0.1  # minutes, of uploads
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("app")
    write_colour_network(root / "spatial.pth.tar")
    write_checkpoint(root / "motion.pth.tar", 30, 2, CLASSES)
    save_network(root / "net.onnx")
    write_video(root / "example.mkv", coloured(0, 0, 12), "ffv1")
    write_video(root / "short.mkv", coloured(12, 18), "ffv1")
    write_video(root / "three.mkv", coloured(15, 15, 20), "ffv1")
    write_video(root / "long.mkv", coloured(81), "ffv1")
    (root / "text.mp4").write_text("no video\n")
    (root / "empty.mp4").write_bytes(b"")
    (root / "large.mp4").write_bytes(bytes(1_100_000))
    return root


def options(data: Path) -> list:
    streams = ["--spatial", data / "spatial.pth.tar", "--motion", data / "motion.pth.tar", "--device", "cpu"]
    return [*streams, "--short-side", 40, "--model", "onnx", "--pose-weights", data / "net.onnx"]


@pytest.fixture(scope="module")
def app(data):
    """The running script: its process, address, and the folder that it keeps files in."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install gradio")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    limits = ["--max-seconds", 8, "--max-megabytes", 1, "--keep-minutes", KEPT]
    command = [ROOT / "app.py", "--port", port, "--examples", data / "example.mkv", *limits, *options(data)]
    temporary = data / "temporary"
    temporary.mkdir()
    env = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "no_proxy": "127.0.0.1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=data, env=env, **pipes)
    line = process.stdout.readline()
    if str(port) not in line:
        raise AssertionError(line + process.communicate(timeout=30)[1])
    (folder,) = temporary.glob("actions-*")
    yield process, f"http://127.0.0.1:{port}", folder
    if process.poll() is None:
        process.kill()
        process.communicate()


@pytest.fixture
def ask(app, tmp_path):
    """Ask the page as a script would: a function of the endpoint's name, the video and what else it takes."""
    client = pytest.importorskip("gradio_client")
    asking = client.Client(app[1], verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    return lambda name, video, *others: asking.predict(client.handle_file(str(video)), *others, api_name=f"/{name}")


# ---- through HTTP ----


def test_a_video_gets_the_answer_of_predict(data, ask, tmp_path):
    video, answer, scores, notes = ask("classify", data / "short.mkv")
    finished = call_main("predict", data / "short.mkv", *options(data), "--overlay", tmp_path / "overlay.mp4")
    table = re.findall(r"^  (.+?)  +([\d.]+)  +([\d.]+)  +([\d.]+)$", finished.stdout, re.M)
    assert scores["data"] == list(map(list, table)) and len(table) == 3, finished.stdout
    assert scores["headers"] == ["%", "fused", "spatial", "motion_pose"] and "30 frames, people in" in notes
    shown = [(one["label"], f"{100 * one['confidence']:.1f}") for one in answer["confidences"]]
    assert shown == [row[:2] for row in table] and answer["label"] == table[0][0]
    path = Path(video["video"] if isinstance(video, dict) else video)
    for ours, theirs in zip(*(read_video(file)[0] for file in (path, tmp_path / "overlay.mp4")), strict=True):
        assert np.abs(ours - theirs).mean() < 2  # a bar may be a pixel longer
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_a_long_video_gets_the_timeline_of_predict(data, ask, tmp_path):
    picture, table, files, scores, notes = ask("timeline", data / "three.mkv", 1, 0.5)
    plan = ("--window", 1, "--stride", 0.5)
    finished = call_main("predict", data / "three.mkv", *options(data), *plan, "--timeline", tmp_path / "three.png")
    assert finished.returncode == 0, finished.stderr
    assert [Path(file).suffix for file in files] == [".png", ".csv", ".json", ".srt"]
    for file in files:
        assert Path(file).read_bytes() == tmp_path.joinpath(f"three{Path(file).suffix}").read_bytes()
    assert Path(picture["path"] if isinstance(picture, dict) else picture).stat().st_size > 10_000
    with Path(files[1]).open(encoding="utf-8") as lines:
        winners = [line["winner"] for line in csv.DictReader(lines)]
    firsts = [name for number, name in enumerate(winners) if number == 0 or winners[number - 1] != name]
    assert [row[0] for row in table["data"]] == firsts and table["data"][-1][2] == "0:05.0"
    assert f"windows: {len(winners)}; 50 frames" in notes and len(scores["data"]) == len(CLASSES)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("text.mp4", "text.mp4: cannot be read: Invalid data"),
        ("empty.mp4", "empty.mp4: cannot be read: Invalid data"),
        ("long.mkv", "long.mkv: lasts 0:08.1, and 0:08.0 is the most"),
    ],
)
def test_bad_uploads_end_in_a_message(data, app, ask, file, words):
    with pytest.raises(Exception, match=re.escape(words)):
        ask("classify", data / file)
    assert app[0].poll() is None


def test_the_server_itself_refuses_large_uploads(data, app):
    httpx = pytest.importorskip("httpx")
    for name, status in (("large.mp4", 413), ("short.mkv", 200)):
        with (data / name).open("rb") as file:
            answer = httpx.post(f"{app[1]}/gradio_api/upload", files={"files": (name, file)})
        assert answer.status_code == status, answer.text


def test_no_upload_and_empty_fields(data, app, ask):
    client = pytest.importorskip("gradio_client").Client(app[1], verbose=False, analytics_enabled=False)
    with pytest.raises(Exception, match="no video yet"):
        client.predict(None, api_name="/classify")
    assert "windows: 1;" in ask("timeline", data / "short.mkv", None, None)[4]


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    reason = "needs playwright: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome")
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, app):
    """The page on a phone's screen; it may ask for nothing from elsewhere."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, permissions=["camera"])
    page, outside = context.new_page(), []
    page.on("request", lambda request: outside.append(request.url) if app[1] not in request.url else None)
    page.set_default_timeout(90_000)
    page.goto(app[1])
    yield page
    assert not [address for address in outside if not address.startswith(("data:", "blob:"))]
    context.close()


def test_a_video_in_the_browser(data, page):
    panel = page.locator("[role=tabpanel]:visible")
    panel.locator("input[type=file]").first.set_input_files(str(data / "text.mp4"))
    panel.get_by_text(".mp4").first.wait_for()
    panel.get_by_role("button", name="Classify").click()
    page.get_by_text("text.mp4: cannot be read").wait_for()
    panel.get_by_role("button", name="Clear").first.click()
    panel.get_by_text("example.mkv").click()
    panel.locator("a[download]").wait_for()
    panel.get_by_role("button", name="Classify").click()
    panel.locator(".confidence-set").first.wait_for()
    assert panel.locator(".confidence-set").count() == len(CLASSES)
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_long_video_in_the_browser(data, page):
    page.get_by_role("tab", name="A long video", exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    panel.locator("input[type=file]").first.set_input_files(str(data / "three.mkv"))
    panel.get_by_text(".mkv").first.wait_for()
    panel.get_by_role("button", name="Classify").click()
    page.wait_for_function("[...document.querySelectorAll('img')].some(image => image.naturalWidth > 1000)")
    panel.get_by_text(".srt").first.wait_for()
    assert panel.locator("td").get_by_text("0:00.0").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_camera_in_the_browser(page):
    page.get_by_role("tab", name="Live", exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    panel.get_by_text("Click to Access Webcam").click()
    panel.locator("button[aria-label='capture photo']").click()
    panel.locator(".confidence-set").first.wait_for()
    assert panel.locator(".confidence-set").count() == len(CLASSES)
    assert re.search(r"fps +latency \d", panel.locator("textarea").input_value())
    assert page.evaluate("document.querySelector('video[data-testid=webcam-video]').videoWidth") > 0
    panel.get_by_text("Stop").click()


def test_uploads_and_results_are_deleted_and_ctrl_c_ends_it(app):
    process, _, folder = app
    wait_for(lambda: not any(path.is_file() and path.stat().st_size for path in folder.rglob("*")), 90)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert not folder.exists()


# ---- before the page ----


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--spatial CHECKPOINT --fps 10 --port TAKEN", ["port"]),
        ("--spatial CHECKPOINT --port 70000", ["--port", "65535"]),
        ("--spatial none.pth", ["none.pth", "no such file"]),
        ("--spatial CHECKPOINT --examples none.mp4", ["none.mp4", "no such file"]),
        ("--spatial CHECKPOINT --max-seconds 0", ["--max-seconds", "positive"]),
        ("", ["no stream", "--spatial"]),
    ],
)
def test_mistakes(data, given, words):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"CHECKPOINT": data / "spatial.pth.tar", "TAKEN": server.getsockname()[1]}
        assert_error(call_main("app", *(names.get(word, word) for word in given.split())), *words)


def test_without_gradio_it_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    finished = call_main("app", "--spatial", data / "spatial.pth.tar")
    assert_error(finished, "pip install -r requirements-app.txt")


# ---- parts ----


def test_length_of_a_file_that_does_not_say(tmp_path, data):
    """A recording that was written to a pipe, as browsers do."""
    path = tmp_path / "recorded.webm"
    with path.open("wb") as file, av.open(SimpleNamespace(write=file.write), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 48, 48
        for picture in [np.zeros((48, 48, 3), np.uint8)] * 30:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert duration(path) == pytest.approx(2.9, abs=0.05)
    assert duration(data / "short.mkv") == pytest.approx(3, abs=0.05)


def test_everyone_gets_the_answer_of_predict(data, tmp_path, monkeypatch):
    """The page's own functions, of a page with --per-person: a video, then its frames before a camera."""
    gradio = pytest.importorskip("gradio", reason="the page needs Gradio: pip install gradio")
    monkeypatch.setattr("prediction.classify.estimator_from_arguments", lambda *args: fake_estimator())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    options = (
        "--per-person",
        "--skeleton",
        write_skeleton_checkpoint(tmp_path / "skeleton.pth.tar"),
        "--device",
        "cpu",
        "--no-amp",
        *FRAMES,
    )
    args = script.get_args_parser().parse_args(list(map(str, options)))
    page = script.build_page(script.prepare(args, keypoints=False, overlay=True), args)
    functions = {function.api_name: function.fn for function in page.fns.values()}
    overlay, bands, table, rows, notes = functions["people"](str(data / "short.mkv"), 1, 1, gradio.Progress())
    outputs = ("--csv", tmp_path / "out.csv", "--timeline", tmp_path / "out.png", "--window", 1)
    finished = call_main("predict", data / "short.mkv", *options, *outputs)
    assert finished.returncode == 0 and len(rows) > 0, finished.stderr
    assert Path(table).read_bytes() == (tmp_path / "out.csv").read_bytes() and "30 frames, people in 30" in notes
    assert len(read_video(overlay)[0]) == 30 and Path(bands).stat().st_size > 5000
    watcher, picture = None, np.zeros((48, 64, 3), np.uint8)
    picture, *_, watcher = functions["look"](picture, watcher)
    assert picture.shape[:2] == (480, 640) and len(watcher.heads) == len(watcher.recent[-1].people)
