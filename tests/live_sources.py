"""Sources of live frames on this machine: pictures, and a web server of videos and of a camera."""

import contextlib
import csv
import functools
import http.server
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.video import encode_jpeg

RATE, COUNT = 20, 36  # of the video that tests play


def picture(value: int = 0):
    return lambda: np.full((48, 64, 3), value, np.uint8)


def wait_for(condition, seconds: float = 10):
    """What `condition()` gives as soon as that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError("waited for too long")


def rows(file: Path) -> list[dict]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


# ---- servers ----


@contextlib.contextmanager
def web(folder: Path) -> Iterator[str]:
    """A web server of the files in `folder`, and of a /camera whose every connection breaks after 3 pictures."""
    handler = functools.partial(WebHandler, directory=str(folder))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class WebHandler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        if self.path != "/camera":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for _ in range(3):
            jpeg = encode_jpeg(np.full((48, 64, 3), 200, np.uint8))
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
        return None

    def log_message(self, *args):
        pass
