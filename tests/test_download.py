"""Downloads of weights, from a server on this machine."""

import hashlib
import io
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from common import download as module
from common.cli import UserError
from common.download import download
from network import imagenet_state_dict, read_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3)}


def as_file(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


DATA = as_file(WEIGHTS)
GOOD = f"net-{hashlib.sha256(DATA).hexdigest()[:8]}.pth"


class Handler(BaseHTTPRequestHandler):
    """Serves `DATA` under some names, cuts it off under others, and takes its time after the first half."""

    def do_GET(self):  # noqa: N802
        self.server.asked.append(self.path)
        if self.path in (f"/{GOOD}", "/net-01234567.pth", f"/cut/{GOOD}", f"/stuck/{GOOD}", "/body.pth"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[: 100 if "cut" in self.path or "stuck" in self.path else None])
            time.sleep(1 if "stuck" in self.path else 0)
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        path = download(url_of(server, GOOD), "give it")
        assert path == tmp_path / "hub/checkpoints" / GOOD and path.read_bytes() == DATA
    assert server.asked == [f"/{GOOD}"]
    assert torch.equal(read_weights(path)[1]["fc.weight"], WEIGHTS["fc.weight"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("net-01234567.pth", "its hash is [0-9a-f]{64}, not 01234567"),
        (f"cut/{GOOD}", "its hash is"),
        (f"stuck/{GOOD}", r"\(timed out\)"),
        ("net-89abcdef.pth", "404"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(server, tmp_path, monkeypatch, name, reason):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with pytest.raises(UserError, match=reason) as caught:
        download(url_of(server, name), "give it with --weights FILE")
    message = str(caught.value)
    assert message.startswith(f"{url_of(server, name)}: cannot be downloaded (")
    assert message.endswith("; give it with --weights FILE") and "\n" not in message
    assert not list((tmp_path / "hub/checkpoints").iterdir())


def test_half_a_file_of_an_earlier_run_is_downloaded_again(server, tmp_path):
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / GOOD).write_bytes(DATA[:100])
    assert download(url_of(server, GOOD), "give it").read_bytes() == DATA
    assert [path.name for path in cache.iterdir()] == [GOOD]


def test_a_notice_is_said_once_and_a_hash_may_be_given(server, capsys):
    whole = hashlib.sha256(DATA).hexdigest()
    for said in (1, 0):
        path = download(url_of(server, "body.pth"), "give it", whole, "not for sale")
        assert capsys.readouterr().err.count("not for sale") == said and path.read_bytes() == DATA
    git = subprocess.run(["git", "hash-object", path], capture_output=True, text=True).stdout.strip()
    assert download(url_of(server, "body.pth"), "give it", git) == path and len(server.asked) == 1
    path.unlink()
    with pytest.raises(UserError, match="its hash is"):
        download(url_of(server, "body.pth"), "give it", whole[::-1], "not for sale")
    assert not capsys.readouterr().err


def test_imagenet_weights_come_from_the_server_by_their_published_name(server, monkeypatch):
    class Weights:
        class DEFAULT:
            url = url_of(server, GOOD)

    monkeypatch.setattr("network.models.get_model_weights", lambda arch: Weights)
    assert torch.equal(imagenet_state_dict("resnet18")["fc.weight"], WEIGHTS["fc.weight"])
