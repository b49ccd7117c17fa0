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
from tinynn.layers import BatchNorm, LayerNorm, Linear, Sequential
from tinynn.training import Model

CALLS = 2000
X = np.random.default_rng(0).normal(size=(1, 64)).astype("float32")
nn = torch.nn
CASES = {
    "64-32-10, relu": (
        Sequential(Linear(32), functional.relu, Linear(10)),
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    ),
    "64-64-64-10, gelu": (
        Sequential(Linear(64), functional.gelu, Linear(64), functional.gelu, Linear(10)),
        nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(),
                      nn.Linear(64, 10)),
    ),
    "norms, silu, softmax": (
        Sequential(Linear(32), BatchNorm(), functional.silu, LayerNorm(), Linear(10),
                   functional.softmax),
        nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.LayerNorm(32),
                      nn.Linear(32, 10), nn.Softmax(-1)),
    ),
}  # fmt: skip


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def exported(case: str, folder: Path) -> list[onnxruntime.InferenceSession]:
    """Ours and PyTorch's, with the same numbers in them."""
    net, module = CASES[case]
    params, state = net.init(0, X)
    model = Model(net, params, state).to("numpy", dtype="float32")
    ours, theirs = folder / "ours.onnx", folder / "theirs.onnx"
    model.to_onnx(ours, X)
    weights = [(f"{i}.{n}", a) for i, part in model.params.items() for n, a in part.items()]
    with torch.no_grad():
        for (name, array), parameter in zip(weights, module.parameters(), strict=True):
            array = array.T if name.endswith("weight") and array.ndim == 2 else array
            parameter.copy_(torch.asarray(array.copy()))
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.asarray(X),), theirs, input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
    return [opened(ours), opened(theirs)]


def microseconds(session: onnxruntime.InferenceSession) -> float:
    start = perf_counter()
    for _ in range(CALLS):
        session.run(["output"], {"input": X})
    return (perf_counter() - start) / CALLS * 1e6


@click.command()
@click.option("--rounds", default=7, show_default=True)
def main(rounds: int) -> None:
    print(f"{'':24} {'ours':>8} {'PyTorch':>8} {'ratio':>6}   microseconds a row, medians")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            sessions = exported(case, Path(folder))
        ours, theirs = (session.run(None, {"input": X})[0] for session in sessions)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        times = np.median([[*map(microseconds, sessions)] for _ in range(rounds)], axis=0)
        print(f"{case:24} {times[0]:8.1f} {times[1]:8.1f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
