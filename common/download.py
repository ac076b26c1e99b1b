"""Weights from the internet, downloaded once and kept where torch.hub keeps them."""

import hashlib
import http.client
import re
import socket
import sys
from pathlib import Path

from common.cli import UserError

TIMEOUT = 30  # seconds without an answer: a firewall that drops packets should not hang the start for minutes


def download(url: str, remedy: str, digest: str = "", notice: str = "") -> Path:
    """Path of the file at `url`, which is downloaded unless it is in `TORCH_HOME/hub/checkpoints` already.

    `digest`: its SHA-256, or the start of that; or 40 digits, its SHA-1 as Git counts it. Not given, its name holds it,
    as those of torchvision's weights do (`resnet18-f37072fd.pth`). A file there that is another, such as half of one,
    is downloaded again. `notice` is said once, after the download. If that fails, the `UserError` tells the URL, the
    reason and `remedy` (what to do instead).
    """
    import torch  # here, for scripts that hash files but do without it

    path = cache_folder() / url.rsplit("/", 1)[-1]
    digest = digest or re.findall(r"-([0-9a-f]+)\.", path.name)[0]
    before = socket.getdefaulttimeout()
    try:
        if path.is_file() and _digest(path, digest).startswith(digest):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(TIMEOUT)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())  # appears when it is whole
        if not (found := _digest(path, digest)).startswith(digest):
            path.unlink()
            raise ValueError(f"its hash is {found}, not {digest}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({error}); {remedy}") from None
    finally:
        socket.setdefaulttimeout(before)
    print(f"downloaded {url} to {path}" + f"; {notice}" * bool(notice), file=sys.stderr)
    return path


def cache_folder() -> Path:
    """Where torch.hub keeps weights."""
    import torch

    return Path(torch.hub.get_dir(), "checkpoints")


def file_hash(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after the other, in hexadecimal digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _digest(path: Path, like: str) -> str:
    """The hash of a file that `like` is one of: SHA-256, or the SHA-1 of Git's blob."""
    if len(like) != 40:
        return file_hash(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
