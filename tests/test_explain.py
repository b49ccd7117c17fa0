"""explain: the training step as a program, with its numbers, and as a picture."""

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

import tinynn
from backends import Backend
from tinynn import fit
from tinynn.cli.app import app
from tinynn.functional import relu, sigmoid
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.optim import SGD, Adam

XOR = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
X = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
Y = [[0.0], [1.0], [1.0], [0.0]]


def arrays(backend: Backend) -> tuple[Any, Any]:
    return backend.asarray(np.asarray(X), "float32"), backend.asarray(np.asarray(Y), "float32")


@pytest.mark.reads_scalars
def test_every_line_has_its_layer_shape_and_value(backend: Backend) -> None:
    x, y = arrays(backend)
    params = XOR.init(0, x)[0]
    step = tinynn.explain(XOR, x, y, loss="mse", params=params, optimizer=SGD(1.0), values=True)
    places = [line.strip() for line in step.source.splitlines() if line.strip().startswith("# ")]
    layers = [place for place in places if place.startswith("# layer")]
    assert layers[0] == "# layer 0, Linear(4, bias=False)"
    assert layers[-1] == "# layer 0, Linear(4, bias=False), backward"
    assert "# update" in places
    # The numbers are those of a step that fit makes.
    trained = tinynn.fit(
        XOR,
        x,
        y,
        loss="mse",
        params=params,
        optimizer=SGD(1.0),
        epochs=1,
        batch_size=None,
        engine="eager",
    )
    last = [value for _, value in step.values if value.ndim][-1]
    weights = [backend.to_host(trained.params[name]["weight"]) for name in ("0", "2")]
    everything = np.concatenate([w.ravel() for w in weights])
    expected = everything if last.ndim == 1 else weights[-1]
    np.testing.assert_allclose(last, expected, rtol=2e-5)
    # And they are those that the text shows.
    assert str(step.values[0][1].round(4)).splitlines()[0].strip() in step.source


@pytest.mark.parametrize(
    "net", [XOR, Sequential(Linear(3), BatchNorm(), relu, Dropout(0.5), Linear(1))], ids=str
)
def test_the_picture_is_whole(backend: Backend, net: Any) -> None:
    x, y = arrays(backend)
    step = tinynn.explain(net, x, y, loss="mse", optimizer=Adam())
    root = ElementTree.fromstring(step.svg)
    boxes = [each for each in root.iter() if each.tag.endswith("rect")][1:]
    drawn = len(step.graph.nodes) + sum(id(i) in step.graph.users() for i in step.graph.inputs)
    assert len(boxes) == drawn
    fills = {box.get("fill") for box in boxes}
    assert len(fills) == 4  # data, forward, backward and update
    assert step._repr_svg_() == step.svg


def test_a_model_explains_itself() -> None:
    model = tinynn.fit(XOR, X, Y, loss="mse", epochs=2)
    assert tinynn.explain(model, X, Y).source == tinynn.explain(XOR, X, Y, loss=model.loss).source


def test_the_command(tmp_path: Any) -> None:
    model, picture = str(tmp_path / "xor.tinynn"), tmp_path / "xor.svg"
    run = CliRunner().invoke
    assert run(app, ["train", "xor", "--out", model, "--epochs", "3"]).exit_code == 0
    shown = run(app, ["explain", model, "xor", "--values", "--svg", str(picture)])
    assert shown.exit_code == 0, shown.output
    assert "# layer 0, Linear(64), backward" in shown.output
    assert picture.read_text().startswith("<svg")
    refused = run(app, ["explain", model, "xor", "--svg", model])
    assert refused.exit_code == 2
    assert "give another name" in refused.output.lower()


@pytest.mark.parametrize("names", [("a", "b"), (0, 1)])
def test_columns_of_frames_by_name(names: tuple[Any, Any]) -> None:
    import pandas

    first, second = names
    frame = pandas.DataFrame({first: [1.0, 3.0, 5.0], second: [2.0, 4.0, 7.0]})
    turned = pandas.DataFrame({second: [2.0, 4.0, 7.0], first: [1.0, 3.0, 5.0]})
    model = fit(Linear(1), frame, [0.0, 1.0, 2.0], epochs=1)
    assert model.columns == tuple(map(str, names))
    np.testing.assert_array_equal(model.predict(turned), model.predict(frame))
    steps = [tinynn.explain(model, each, [0.0, 1.0, 2.0], values=True) for each in (frame, turned)]
    assert steps[0].source == steps[1].source
