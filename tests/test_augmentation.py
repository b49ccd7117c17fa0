"""Augmentation: what may come out, the same bits everywhere, by the row of the whole batch."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_equal
from tests.engines import compiled_by
from tests.onnx_files import assert_same, exported
from tinynn import tree
from tinynn.layers import (
    Conv2d,
    Cutout,
    Flatten,
    GaussianNoise,
    Linear,
    RandomCrop,
    RandomFlip,
    RandomShift,
    Sequential,
    ShapeError,
    from_config,
    run,
    to_config,
)
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training import Model, fit

DRAW = np.random.default_rng(5)
IMAGES = DRAW.normal(size=(9, 5, 6, 2)) + 10
LAYERS: dict[str, Any] = {
    "flip": RandomFlip(2),
    "noise": GaussianNoise(0.5),
    "shift": RandomShift((1, 2), fill=3.0),
    "crop": RandomCrop(4),
    "padded crop": RandomCrop((5, 6), padding=(1, 2)),
    "hole": Cutout(3, fill=-1.0),
    "shift, first": RandomShift(1, channels="first"),
    "hole, first": Cutout(2, channels="first"),
}


def changed(layer: Any, x: Any, **options: Any) -> Any:
    return layer.apply({}, {}, x, key=3, training=True, **options)[0]


def windows(x: np.ndarray, padding: tuple[int, int], fill: float) -> list[np.ndarray]:
    """Every part of x, padded, of the size of x."""
    (height, width), (p, q) = x.shape[:2], padding
    wide = np.pad(x, ((p, p), (q, q), (0, 0)), constant_values=fill)
    return [wide[i : i + height, j : j + width] for i in range(2 * p + 1) for j in range(2 * q + 1)]


def where_found(row: np.ndarray, allowed: list[np.ndarray]) -> int:
    found = [i for i, each in enumerate(allowed) if np.array_equal(row, each)]
    assert found, "what came out is none of what may come out"
    return found[0]


@pytest.mark.only("numpy")
def test_every_choice_comes_and_nothing_else() -> None:
    x = np.concatenate([IMAGES] * 30)
    cases: dict[str, tuple[Any, int, Any]] = {
        "flip": (LAYERS["flip"], 2, lambda row: [row, row[:, ::-1]]),
        "shift": (LAYERS["shift"], 15, lambda row: windows(row, (1, 2), 3.0)),
        "padded crop": (LAYERS["padded crop"], 15, lambda row: windows(row, (1, 2), 0.0)),
        "crop": (
            LAYERS["crop"], 6,
            lambda row: [row[i : i + 4, j : j + 4] for i in range(2) for j in range(3)],
        ),
    }  # fmt: skip
    for layer, count, allowed in cases.values():
        y = changed(layer, x)
        found = [where_found(row, allowed(old)) for row, old in zip(y, x, strict=True)]
        times = np.bincount(found, minlength=count)
        assert len(times) == count
        assert times.min() > 0.3 * len(x) / count
        assert times.max() < 2 * len(x) / count


@pytest.mark.only("numpy")
def test_holes_and_noise() -> None:
    x = np.concatenate([IMAGES] * 30)
    holes = changed(LAYERS["hole"], x) == -1.0
    np.testing.assert_array_equal(holes[..., 0], holes[..., 1])
    heights, widths = holes[..., 0].any(axis=2).sum(1), holes[..., 0].any(axis=1).sum(1)
    np.testing.assert_array_equal(holes[..., 0].sum(axis=(1, 2)), heights * widths)  # whole squares
    assert set(heights) == set(widths) == {2, 3}  # less than 3 at the border
    assert holes[..., 0].any(axis=0).all()
    noise = changed(LAYERS["noise"], x) - x
    assert abs(noise.std() - 0.5) < 0.02
    assert abs(noise.mean()) < 0.02


@pytest.mark.parametrize("name", LAYERS)
def test_same_bits_everywhere_and_by_row(
    name: str, backend: backends.Backend, float_dtype: Any
) -> None:
    layer, x = LAYERS[name], backend.asarray(IMAGES, dtype=float_dtype)
    y = changed(layer, x)
    host = changed(layer, backend.to_host(x))
    if name == "noise" and host.dtype == np.float32:  # whose sums are fused on some devices
        np.testing.assert_allclose(backend.to_host(y), host, rtol=1e-6)
    else:
        assert_equal(y, host, backend, dtype=float_dtype)
    part = changed(layer, x[4:, ...], first_row=4)
    assert_equal(part, backend.to_host(y)[4:], backend, dtype=float_dtype)
    assert (host[1:] != host[:-1]).any()
    assert run(layer, {}, {}, x, key=3, training=True).draws


@pytest.mark.only("numpy")
def test_inference_changes_nothing() -> None:
    for name, layer in LAYERS.items():
        y = layer({}, IMAGES)
        expected = IMAGES[:, :4, 1:5] if name == "crop" else IMAGES
        np.testing.assert_array_equal(y, expected)
        assert not run(layer, {}, {}, IMAGES).draws
        np.testing.assert_array_equal(changed(layer, IMAGES[:0]), expected[:0])
        if name not in ("flip", "noise"):
            assert changed(layer, np.ones((2, 5, 6, 2), dtype="uint8")).dtype == np.float64


@pytest.mark.only("numpy")
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_go_where_the_elements_came_from(name: str) -> None:
    layer = LAYERS[name]
    weight = DRAW.normal(size=changed(layer, IMAGES).shape)
    f = lambda x: namespace(x).sum(changed(layer, x) * weight)  # noqa: E731
    slope, way = tinynn.grad(f)(IMAGES), DRAW.normal(size=IMAGES.shape)
    np.testing.assert_allclose(np.sum(slope * way), f(IMAGES + way) - f(IMAGES), rtol=1e-9)
    np.testing.assert_allclose(tinynn.jvp(f, (IMAGES,), (way,))[1], np.sum(slope * way), rtol=1e-9)


NET = Sequential(
    RandomFlip(2), RandomShift(1), Cutout(2), GaussianNoise(0.1), RandomCrop(4), Conv2d(2),
    Flatten(), Linear(2),
)  # fmt: skip
X = IMAGES[:8].astype("f4") - 10
Y = DRAW.normal(size=(8, 2)).astype("f4")


@pytest.mark.only("numpy", "torch", "array_api_strict", "cupy")
@pytest.mark.reads_scalars
def test_compiled_training_is_eager_training_of_numpy(backend: backends.Backend) -> None:
    kinds: dict[str, Any] = {
        "loss": SquaredError(), "optimizer": SGD(0.05), "epochs": 3, "batch_size": 4, "seed": 1,
        "progress": False,
    }  # fmt: skip
    host = fit(NET, X, Y, engine="eager", **kinds)
    x, y = backend.asarray(X), backend.asarray(Y)
    here = fit(NET, x, y, engine=compiled_by(backend), **kinds)
    for (_, a), (_, b) in zip(tree.paths(here.params), tree.paths(host.params), strict=True):
        np.testing.assert_allclose(backend.to_host(a), b, rtol=1e-3, atol=1e-4)


def test_written_down_and_exported(tmp_path: Any) -> None:
    assert from_config(to_config(NET)) == NET
    for layer in LAYERS.values():
        assert from_config(to_config(layer)) == layer
    model = Model(NET, *NET.init(0, X))
    assert_same(exported(model, tmp_path, X), model, X, rows=(1, 3))


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (RandomFlip(4), IMAGES, r"an axis 4 beside that of the batch, got shape \(9, 5, 6, 2\)"),
        (RandomFlip(-4), IMAGES, "an axis -4"),
        (RandomShift(1), IMAGES[:, :, 0, 0], r"with spatial axes.*got \(9, 5\)"),
        (RandomCrop(6), IMAGES, r"samples of \(6, 6\) elements or more .* got \(5, 6\)"),
    ],
)
def test_bad_input_names_the_layer(layer: Any, x: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"^layer 0\.0, .*{message}.*To fix it: "):
        Sequential(Sequential(layer)).init(0, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomFlip(0),
        lambda: RandomFlip("width"),
        lambda: RandomFlip(1, rate=2),
        lambda: GaussianNoise(-1),
        lambda: RandomShift(-1),
        lambda: RandomCrop(0),
        lambda: RandomCrop(2, padding=-1),
        lambda: Cutout(2.5),
        lambda: Cutout(2, channels="middle"),
    ],
)
def test_bad_settings_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_limits_fit_the_input() -> None:
    with pytest.raises(
        ValueError, match=r"expected limit to be .* 2 spatial axes, got \(1, 2, 3\)"
    ):
        changed(RandomShift((1, 2, 3)), IMAGES)
