"""What tests of ONNX files share: models written and run in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinynn import tree
from tinynn.training import Model

#: Layers whose files are tested beside the rest of them, by the name of the test.
ELSEWHERE = (
    *"GroupNorm InstanceNorm RMSNorm SpectralNorm WeightNorm".split(),  # tests/test_norms.py
    *"Bilinear Concatenate Lambda MixtureOfExperts PReLU Parallel Permute Reshape".split(),
    "Residual",  # these, in tests/test_containers.py
    *"Cutout GaussianNoise RandomCrop RandomFlip RandomShift".split(),  # test_augmentation.py
)


def made(net: Any, x: Any, **about: Any) -> Model:
    """A model of float32, with parameters and state that are not what they are made as."""
    inputs = x if isinstance(x, tuple) else (x,)
    params, state = net.init(3, *inputs, dtype="float32")
    draw = np.random.default_rng(5)

    def moved(a: Any) -> Any:
        return a + draw.random(a.shape, dtype=np.float32) if a.dtype == np.float32 else a

    return Model(net, tree.map(moved, params), tree.map(moved, state), **about)


def session(path: Path) -> Any:
    """The file in onnxruntime, on one thread."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def exported(model: Model, folder: Path, x: Any = None) -> Any:
    """The model, written to a file and opened."""
    model.to_onnx(folder / "model.onnx", x)
    return session(folder / "model.onnx")


def assert_same(runs: Any, model: Model, x: Any, rows: tuple[int, ...] = (1, 7, 256)) -> None:
    """For batches of several sizes the file gives what `predict` gives, of the same dtype."""
    draw = np.random.default_rng(2)
    names = [each.name for each in runs.get_inputs()]
    for count in rows:
        batch = tree.map(lambda a, n=count: drawn(draw, a, n), x)
        found = runs.run(None, dict(zip(names, tree.leaves(batch), strict=False)))
        expected = dict(tree.paths(model.predict(batch)))
        for (name, wanted), got in zip(expected.items(), found, strict=True):
            assert (got.shape, got.dtype) == (np.shape(wanted), wanted.dtype), name
            np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5, err_msg=name)


def drawn(draw: Any, like: Any, rows: int) -> Any:
    shape = (rows, *like.shape[1:])
    if like.dtype.kind == "i":
        return draw.integers(0, like.max() + 1, size=shape)
    return draw.normal(size=shape).astype(np.float32)
