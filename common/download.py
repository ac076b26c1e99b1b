"""Weights from the internet, downloaded once and kept where torch.hub keeps them."""

import http.client
import re
import socket
from pathlib import Path

import torch

from common.cli import UserError

TIMEOUT = 30  # seconds without an answer: a firewall that drops packets should not hang the start for minutes


def download(url: str, remedy: str) -> Path:
    """Path of the file at `url`, which is downloaded unless it is in `TORCH_HOME/hub/checkpoints` already.

    Its name must hold the start of its SHA-256, as those of torchvision's weights do (`resnet18-f37072fd.pth`).
    Raises `UserError` with the URL, the reason and `remedy` (what to do instead) if the download fails.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=re.search(r"-([0-9a-f]+)\.", path.name)[1])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({error}); {remedy}") from None
    finally:
        socket.setdefaulttimeout(timeout)
    return path
