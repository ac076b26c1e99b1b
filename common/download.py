"""Weights from the internet, downloaded once and kept where torch.hub keeps them."""

import hashlib
import http.client
import re
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from tqdm import tqdm

from common.atomic import atomic_write, remove_leftovers
from common.cli import UserError

TIMEOUT = 30  # seconds without an answer: a firewall that drops packets should not hang the start for minutes
CHUNK = 2**18  # bytes


def download(url: str, remedy: str, sha256: str = "", notice: str = "") -> Path:
    """Path of the file at `url`, which is downloaded unless it is in `TORCH_HOME/hub/checkpoints` already.

    `sha256` is its hash or the start of it; not given, its name holds that, as those of torchvision's weights do
    (`resnet18-f37072fd.pth`). A file there with another hash, such as half of one, is downloaded again. `notice` is
    said once, after the download. Raises `UserError` with the URL, the reason and `remedy` (what to do instead) if
    it fails; then nothing of it stays.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    sha256 = sha256 or re.findall(r"-([0-9a-f]+)\.", path.name)[0]
    try:
        if path.is_file() and file_hash(path).startswith(sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        _fetch(url, path, sha256)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({error}); {remedy}") from None
    print(f"downloaded {url} to {path}" + f"; {notice}" * bool(notice), file=sys.stderr)
    return path


def cache_folder() -> Path:
    """Where torch.hub keeps weights."""
    import torch  # here, for processes that group poses hash files but do without it

    return Path(torch.hub.get_dir(), "checkpoints")


def file_hash(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _fetch(url: str, path: Path, sha256: str) -> None:
    """Write what is at `url` to `path`, whole and of that hash, or not at all."""
    request = Request(url, headers={"User-Agent": "torch.hub"})
    digest = hashlib.sha256()
    with urlopen(request, timeout=TIMEOUT) as answer, atomic_write(path) as file:
        total = int(answer.headers.get("Content-Length") or 0) or None
        bar = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False, "disable": None}
        with tqdm(total=total, desc=path.name, **bar) as progress:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        if total and file.tell() < total:
            raise ValueError(f"it ends after {file.tell()} of {total} bytes")
        if not digest.hexdigest().startswith(sha256):
            raise ValueError(f"its SHA-256 is {digest.hexdigest()}, not {sha256}")
