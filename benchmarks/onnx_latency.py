"""The latency of one row in onnxruntime: our export of a network beside PyTorch's of the same.

pip install onnx onnxruntime torch
python benchmarks/onnx_latency.py [--rounds 15] [--only last]
"""

import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import onnxruntime
import torch

from tinynn import functional, tree
from tinynn.layers import (
    GRU,
    BatchNorm,
    Conv2d,
    Flatten,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    MaxPool2d,
    Sequential,
    SqueezeExcite,
)
from tinynn.training import Model

CALLS, WINDOWS = 20, 30
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(1, 64)).astype("float32")
IMAGE = DRAW.normal(size=(1, 1, 16, 16)).astype("float32")
STEPS = DRAW.normal(size=(1, 20, 8)).astype("float32")
nn = torch.nn


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


class Excited(nn.Module):
    """Squeeze and excitation, as `SqueezeExcite` does it."""

    def __init__(self, channels, few):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, few), nn.Linear(few, channels)

    def forward(self, x):
        factors = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * factors[:, :, None, None]


class ByPixel(nn.Module):
    """A norm over the channels of each pixel, which PyTorch has for the last axis alone."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def images(ours, theirs, channels="last"):
    """Two convolutions, each followed by relu and a pool, with other layers behind them."""
    first, second = (layer(channels) for layer in ours), (layer() for layer in theirs)
    net, module = [], []
    for inputs, more, other in zip((1, 8), (list(first), []), (list(second), []), strict=True):
        net += [Conv2d(2 * max(inputs, 4), padding=1, channels=channels), *more, functional.relu,
                MaxPool2d(channels=channels)]  # fmt: skip
        width = 2 * max(inputs, 4)
        module += [nn.Conv2d(inputs, width, 3, padding=1), *other, nn.ReLU(), nn.MaxPool2d(2)]
    return Sequential(*net, Flatten(), Linear(10)), nn.Sequential(
        *module, nn.Flatten(), nn.Linear(256, 10)
    )


CASES = {
    "64-32-10, relu": (
        Sequential(Linear(32), functional.relu, Linear(10)),
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    ),
    "64-64-64-10, gelu": (
        Sequential(Linear(64), functional.gelu, Linear(64), functional.gelu, Linear(10)),
        nn.Sequential(
            nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
        ),
    ),
    "norms, silu, softmax": (
        Sequential(
            Linear(32), BatchNorm(), functional.silu, LayerNorm(), Linear(10), functional.softmax
        ),
        nn.Sequential(
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.SiLU(),
            nn.LayerNorm(32),
            nn.Linear(32, 10),
            nn.Softmax(-1),
        ),
    ),
    "convolutions, 1x16x16": images([], [], "first"),
    "the same, channels last": images([], []),
    "SqueezeExcite, first": images(
        [lambda channels: SqueezeExcite(4, channels=channels)], [lambda: Excited(8, 2)], "first"
    ),
    "SqueezeExcite, last": images(
        [lambda channels: SqueezeExcite(4, channels=channels)], [lambda: Excited(8, 2)]
    ),
    "GroupNorm, first": images(
        [lambda channels: GroupNorm(2, channels=channels)], [lambda: nn.GroupNorm(2, 8)], "first"
    ),
    "GroupNorm, last": images(
        [lambda channels: GroupNorm(2, channels=channels)], [lambda: nn.GroupNorm(2, 8)]
    ),
    "InstanceNorm, last": images(
        [lambda channels: InstanceNorm(channels=channels)],
        [lambda: nn.InstanceNorm2d(8, affine=True)],
    ),
    "LayerNorm, last": images([lambda channels: LayerNorm()], [lambda: ByPixel(8)]),
    "GRU, 20 steps of 8": (
        Sequential(GRU(32), Linear(10)),
        nn.Sequential(Last(nn.GRU(8, 32, batch_first=True)), nn.Linear(32, 10)),
    ),
}
PIXELS = np.moveaxis(IMAGE, 1, -1).copy()


def inputs_of(case: str) -> tuple[np.ndarray, np.ndarray]:
    """What ours takes, and PyTorch's."""
    if case.startswith("GRU"):
        return STEPS, STEPS
    if case.endswith("last"):
        return PIXELS, IMAGE
    return (IMAGE, IMAGE) if case.endswith(("first", "16x16")) else (X, X)


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def exported(case: str, folder: Path) -> list[Path]:
    """Ours and PyTorch's, with the same numbers in them."""
    (net, module), (x, image) = CASES[case], inputs_of(case)
    params, state = net.init(0, x)
    model = Model(net, params, state).to("numpy", dtype="float32")
    ours, theirs = folder / "ours.onnx", folder / "theirs.onnx"
    model.to_onnx(ours, x)
    weights = tree.paths(model.params)
    with torch.no_grad():
        for (name, array), parameter in zip(weights, module.parameters(), strict=True):
            parameter.copy_(torch.asarray(turned(case, name, array).copy()))
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.asarray(image),), theirs, input_names=["input"],
            output_names=["output"], dynamic_axes={"input": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
    return [ours, theirs]


def turned(case: str, name: str, array: np.ndarray) -> np.ndarray:
    """A parameter in PyTorch's order."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if case.endswith("last") and array.shape == (256, 10):  # the pixels come before the channels
        array = array.reshape(4, 4, 16, 10).transpose(2, 0, 1, 3).reshape(256, 10)
    return array.T if array.ndim == 2 else array


def microseconds(path: Path, x: np.ndarray) -> tuple[float, np.ndarray]:
    """The time of a call in a session of its own, since sessions of one file differ; the result."""
    session = opened(path)
    (output, *_) = session.run(["output"], {"input": x})
    times = []
    for _ in range(WINDOWS):  # short ones, that other work on the machine does not reach into
        start = perf_counter()
        for _ in range(CALLS):
            session.run(["output"], {"input": x})
        times.append(perf_counter() - start)
    return min(times) / CALLS * 1e6, output


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--only", default="", help="Cases whose names hold this.")
def main(rounds: int, only: str) -> None:
    print(f"{'':24} {'ours':>8} {'PyTorch':>8} {'ratio':>6}   microseconds a row, the least")
    for case in filter(lambda name: only in name, CASES):
        times = []
        with tempfile.TemporaryDirectory() as folder:
            pairs = list(zip(exported(case, Path(folder)), inputs_of(case), strict=True))
            for _ in range(rounds):
                (ours, found), (theirs, wanted) = (microseconds(*pair) for pair in pairs)
                np.testing.assert_allclose(found, wanted, atol=1e-4)
                times.append((ours, theirs))
        times = np.min(times, axis=0)
        print(f"{case:24} {times[0]:8.1f} {times[1]:8.1f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
