"""Sources of live frames on this machine: pictures, a web server of videos and of a camera, an RTSP camera."""

import contextlib
import csv
import functools
import http.server
import io
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
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
def serving(handler: type, scheme: str) -> Iterator[str]:
    """The address of a server that answers every connection in a thread."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"{scheme}://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def web(folder: Path):
    """A web server of the files in `folder`, and of a /camera whose every connection breaks after 3 pictures."""
    return serving(functools.partial(WebHandler, directory=str(folder)), "http")


def rtsp():
    """An RTSP camera, H.264 over TCP, whose every connection ends after 20 pictures, each darker than the next."""
    return serving(RtspHandler, "rtsp")


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


SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")


class RtspHandler(socketserver.StreamRequestHandler):
    """Answers the requests of RFC 2326 that FFmpeg makes, then sends RTP packets in between (its section 10.12)."""

    def handle(self):
        answers = {
            "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n\r\n",
            "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}",
            "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
            "PLAY": "Session: 1\r\n\r\n",
        }
        method = ""
        while method != "PLAY":
            lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
            if not lines:
                return
            method = lines[0].split()[0]
            sequence = next(line for line in lines if line.startswith("CSeq"))
            self.wfile.write(f"RTSP/1.0 200 OK\r\n{sequence}\r\n{answers[method]}".encode())
        with contextlib.suppress(OSError):  # the reader went away
            self.send_pictures()

    def send_pictures(self):
        options = {"tune": "zerolatency", "g": "5"}
        with av.open(Packets(self.wfile), "w", format="rtp", options={"packetsize": "1200"}) as container:
            stream = container.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(20):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i + 20, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
                time.sleep(0.02)


class Packets(io.RawIOBase):
    """Sends each packet that is written with its channel, 0 for RTP and 1 for RTCP, and its length."""

    def __init__(self, file):
        self.file = file

    def writable(self):
        return True

    def write(self, data):
        packet = bytes(data)
        self.file.write(b"$" + bytes([200 <= packet[1] <= 204]) + len(packet).to_bytes(2, "big") + packet)
        return len(packet)
