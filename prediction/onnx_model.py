"""A stream's network as an ONNX file that tells all that `predict.py` reads from checkpoints."""

import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import atomic_write
from common.cli import UserError
from dataloader.skeleton_dataloader import MOMENTS, PEOPLE
from network import CPU, Model
from pose.onnx_network import PROVIDERS, available_providers, open_session
from pose.skeleton import NUM_PARTS
from training.streams import Stream, trained_stream

OPSET = 17
TOLERANCE = 1e-4  # of logits up to 1, of larger ones in proportion: what float rounding leaves
# Of a checkpoint, what only training on needs.
TRAINING_STATE = {"state_dict", "training_state_dict", "optimizer", "scheduler", "scaler", "averaged_steps"}
IMAGE_INPUT = (
    "input: float32 (N, in_channels, image_size, image_size); images as RGB (flow: u, v), resized whole, stack_length "
    "following ones stacked in channels; values / 255, then (x - mean) / std per channel of an image unless null."
)
SKELETON_INPUT = (
    "input: float32 (N, people, 11, moments, 18): x, y, score, bone, motion of both, way to the other person's part."
)
OUTPUT = "logits: float32 (N, classes). A video's score is the mean of the logits of its test_positions clips."


class OnnxNetwork(nn.Module):
    """A network in an ONNX Runtime session, for inference alone: input tensors to logits, both on the CPU."""

    def __init__(self, session: Any):
        super().__init__()
        self.session = session

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of N clips."""
        (logits,) = self.session.run(["logits"], {"input": inputs.float().contiguous().numpy()})
        return torch.from_numpy(logits)


def is_onnx(path: str | os.PathLike) -> bool:
    """Whether the name is that of an ONNX file."""
    return Path(path).suffix.lower() == ".onnx"


def read_onnx(path: str | os.PathLike, stream: Stream, device: torch.device = CPU) -> Model:
    """The network of a file of `write_onnx`; its `checkpoint` holds all that the file tells.

    It computes with as many threads as torch, on a GPU if `device` is one and this onnxruntime has CUDA. Raises
    `UserError` if the file is no network of this stream.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give an existing .onnx file or checkpoint")
    cuda = device.type == "cuda" and PROVIDERS["cuda"] in available_providers()
    session = open_session(path, "cuda" if cuda else "cpu", torch.get_num_threads())
    try:
        told = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
        name, described = told["stream"], (told["arch"], told["image_size"], told["classes"])
    except (ValueError, KeyError):
        raise UserError(
            f"{path}: its metadata do not tell of a stream's network; write it with export_onnx.py"
        ) from None
    if name != stream.name:
        raise UserError(f"{path}: is a network of the {name} stream, not of the {stream.name} stream; give one of it")
    return Model(OnnxNetwork(session), *described, told, path)


def describe(model: Model, stream: Stream) -> dict:
    """What a file tells of a checkpoint's network, in plain values: what goes in, classes, the run's options and data.

    `mean` and `std` are per channel of an image, None where images are not normalised, absent for skeletons.
    """
    kept = {name: value for name, value in model.checkpoint.items() if name not in TRAINING_STATE and _is_plain(value)}
    to_input = trained_stream(stream, model.checkpoint.get("options", {})).to_input
    return kept | {
        "stream": stream.name,
        "arch": model.arch,
        "classes": model.classes,
        "in_channels": stream.in_channels,
        "image_size": model.image_size,
        "stack_length": stream.length,
        "test_positions": stream.test_clips,
        **getattr(to_input, "keywords", {}),  # mean and std
    }


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def convert(model: Model, stream: Stream) -> bytes:
    """The network of `load_for_testing` as an ONNX file with any batch size and `describe` as its metadata, in JSON.

    Raises `UserError` if onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("writing ONNX files needs onnx, which is not installed: pip install onnx") from None
    file = io.BytesIO()
    with warnings.catch_warnings():
        # About this exporter's age (the new one needs onnxscript), and what `write_onnx` makes sure of by running it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.network,
            (torch.randn(2, *input_shape(model, stream)),),
            file,  # type: ignore[arg-type]  # this exporter takes open files
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        )
    content = onnx.load_model_from_string(file.getvalue())
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in describe(model, stream).items()}
    onnx.helper.set_model_props(content, metadata)
    content.doc_string = f"{SKELETON_INPUT if model.image_size is None else IMAGE_INPUT} {OUTPUT}"
    return content.SerializeToString()


def input_shape(model: Model, stream: Stream) -> tuple[int, ...]:
    """The shape of one clip as the network takes it."""
    if model.image_size is None:
        return PEOPLE, stream.in_channels, MOMENTS, NUM_PARTS
    return stream.in_channels, model.image_size, model.image_size


def write_onnx(path: str | os.PathLike, model: Model, stream: Stream) -> float:
    """Write the network of `load_for_testing` as an ONNX file that `read_onnx` reads.

    The file is run on random clips and compared with the network before it gets its name. Returns the largest
    difference of their logits; raises `UserError` if that is more than rounding, or if a package is missing.
    """
    content = convert(model, stream)
    with atomic_write(path) as file:
        file.write(content)
        file.flush()
        difference, limit = compare(model, read_onnx(file.name, stream), input_shape(model, stream))
        if not difference <= limit:
            raise UserError(
                f"{path}: ONNX Runtime's logits differ by {difference:.1e} from the network's, more than {limit:.1e}; "
                "nothing was written; try other versions of torch and onnxruntime"
            )
    return difference


@torch.inference_mode()
def compare(model: Model, other: Model, shape: tuple[int, ...]) -> tuple[float, float]:
    """The largest difference of two models' logits of a random clip, and of three, and what rounding may make of it.

    Of the three, one is 0 throughout, and of another all but the first channel or person: nobody, and one alone.
    """
    generator = torch.Generator().manual_seed(0)
    differences, sizes = [], [1.0]
    for clips in (1, 3):
        inputs = torch.randn(clips, *shape, generator=generator)
        inputs[1:2], inputs[2:, 1:] = 0, 0
        expected = model.network(inputs)
        differences.append((other.network(inputs) - expected).abs().max().item())
        sizes.append(expected.abs().max().item())
    return torch.tensor(differences).max().item(), TOLERANCE * max(sizes)  # torch's max keeps a NaN
