"""The latency of one row in onnxruntime: our export of a network beside PyTorch's of the same.

pip install onnx onnxruntime torch
python benchmarks/onnx_latency.py [--rounds N]
"""

import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import onnxruntime
import torch

from tinynn import functional
from tinynn.layers import (
    GRU,
    BatchNorm,
    Conv2d,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool2d,
    Sequential,
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
    "convolutions, 1x16x16": (
        Sequential(
            Conv2d(8, padding=1, channels="first"),
            functional.relu,
            MaxPool2d(channels="first"),
            Conv2d(16, padding=1, channels="first"),
            functional.relu,
            MaxPool2d(channels="first"),
            Flatten(),
            Linear(10),
        ),
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        ),
    ),
    "the same, channels last": (
        Sequential(
            Conv2d(8, padding=1),
            functional.relu,
            MaxPool2d(),
            Conv2d(16, padding=1),
            functional.relu,
            MaxPool2d(),
            Flatten(),
            Linear(10),
        ),
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        ),
    ),
    "GRU, 20 steps of 8": (
        Sequential(GRU(32), Linear(10)),
        nn.Sequential(Last(nn.GRU(8, 32, batch_first=True)), nn.Linear(32, 10)),
    ),
}
INPUTS = {
    "convolutions, 1x16x16": (IMAGE, IMAGE),
    "the same, channels last": (np.moveaxis(IMAGE, 1, -1).copy(), IMAGE),
    "GRU, 20 steps of 8": (STEPS, STEPS),
}  # fmt: skip


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def exported(case: str, folder: Path) -> list[Path]:
    """Ours and PyTorch's, with the same numbers in them."""
    (net, module), (x, image) = CASES[case], INPUTS.get(case, (X, X))
    params, state = net.init(0, x)
    model = Model(net, params, state).to("numpy", dtype="float32")
    ours, theirs = folder / "ours.onnx", folder / "theirs.onnx"
    model.to_onnx(ours, x)
    weights = [(f"{i}.{n}", a) for i, part in model.params.items() for n, a in part.items()]
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
def main(rounds: int) -> None:
    print(f"{'':24} {'ours':>8} {'PyTorch':>8} {'ratio':>6}   microseconds a row, the least")
    for case in CASES:
        times = []
        with tempfile.TemporaryDirectory() as folder:
            pairs = list(zip(exported(case, Path(folder)), INPUTS.get(case, (X, X)), strict=True))
            for _ in range(rounds):
                (ours, found), (theirs, wanted) = (microseconds(*pair) for pair in pairs)
                np.testing.assert_allclose(found, wanted, atol=1e-4)
                times.append((ours, theirs))
        times = np.min(times, axis=0)
        print(f"{case:24} {times[0]:8.1f} {times[1]:8.1f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
