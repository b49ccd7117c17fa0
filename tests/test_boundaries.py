"""Decision boundaries while a network learns: files, notebooks and terminals; PNG and blocks."""

import io
import re
import sys
import types
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tinynn import Model, fit, inspection
from tinynn.functional import tanh
from tinynn.inspection import DecisionBoundary, Surface, to_png, to_terminal
from tinynn.layers import BatchNorm, Linear, Sequential

X = np.random.default_rng(0).normal(size=(30, 2))
LABELS = (X[:, 0] * X[:, 1] > 0).astype(int)
NET = Sequential(Linear(8), tanh, Linear(2))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_they_are_drawn_into_a_file(tmp_path):
    path, seen = tmp_path / "answers.svg", []

    def model(run):
        seen.append(run.epoch)
        return Model(NET, run.params)

    draw = DecisionBoundary(model, X, LABELS, to=path, every=2, resolution=5)
    trained = fit(NET, X, LABELS, epochs=5, callbacks=draw)
    assert seen == [2, 4, 5]
    picture = ET.fromstring(path.read_text())
    assert len(picture.findall(".//{*}circle")) == 30
    assert "epoch 5" in [text.text for text in picture.findall("{*}text")]
    surface = inspection.decision_boundary(trained, X, resolution=4, answer=trained.predict_proba)
    assert surface.values.shape == (4, 4, 2)
    np.testing.assert_allclose(
        surface.values[1, 2], trained.predict_proba([[surface.x[2], surface.y[1]]])[0]
    )
    lost = DecisionBoundary(NET, X, to=tmp_path / "no" / "a.svg")
    with pytest.raises(FileNotFoundError, match="DecisionBoundary: to: expected a folder that"):
        fit(NET, X, LABELS, epochs=5, callbacks=lost)
    assert [each.name for each in tmp_path.iterdir()] == ["answers.svg"]
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png, got a\.gif"):
        DecisionBoundary(NET, X, to="a.gif")
    with pytest.raises(TypeError, match="to: expected a path, a stream of text or None, got 3"):
        DecisionBoundary(NET, X, to=3)


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "answers.png"
    draw = DecisionBoundary(lambda run: run, np.eye(2), to=path, resolution=2)
    run = types.SimpleNamespace(epoch=1, epochs=1, rank=0, outputs=lambda x: x)
    draw(run)
    before = path.read_bytes()
    assert before[:4] == b"\x89PNG"

    def killed(self, content, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(run)
    assert path.read_bytes() == before


def test_a_terminal_is_drawn_over(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "12")
    terminal = Terminal()
    draw = DecisionBoundary(NET, X, LABELS, to=terminal)
    fit(NET, X, LABELS, epochs=2, callbacks=draw)
    first, second = terminal.getvalue().split("\x1b[7F\x1b[J")  # a title, and 12 places in 6 lines
    for epoch, part in enumerate((first, second), 1):
        title, *lines = part.splitlines()
        assert title == f"epoch {epoch}"
        assert len(lines) == 6
        assert all(line.count("\u2580") == 12 and line.endswith("\x1b[0m") for line in lines)
        shown = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m", part)
        assert {("0", "0", "0"), ("255", "255", "255")} <= {c[:3] for c in shown} | {
            c[3:] for c in shown
        }  # the points
    draw(types.SimpleNamespace(epoch=1, epochs=1, rank=1))  # of two processes the first draws
    monkeypatch.setenv("NO_COLOR", "1")
    fit(NET, X, LABELS, epochs=2, callbacks=draw)
    assert terminal.getvalue().split(second)[1].count("\x1b") == 0


def test_a_picture_is_no_higher_than_the_terminal(monkeypatch):
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setenv("NO_COLOR", "")  # empty is not set
    monkeypatch.setenv("COLUMNS", "6")
    monkeypatch.setenv("LINES", "4")
    terminal = Terminal()
    fit(NET, X, LABELS, epochs=2, callbacks=DecisionBoundary(NET, X, LABELS, to=terminal))
    first, second = terminal.getvalue().split(
        "\x1b[3F\x1b[J"
    )  # of the four lines one is the cursor's
    assert [line.count("\u2580") for line in first.splitlines()] == [0, 4, 4]
    assert second.splitlines()[0] == "epoch "  # a title that wraps would be a line more


def test_a_terminal_without_blocks_has_characters(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)

    class Ascii(io.TextIOWrapper):
        def isatty(self):
            return True

    behind = io.BytesIO()
    terminal = Ascii(behind, encoding="ascii")
    fit(NET, X, LABELS, epochs=1, callbacks=DecisionBoundary(NET, X, LABELS, to=terminal))
    assert behind.getvalue().startswith(b"epoch 1")


def test_a_bar_and_a_pipe_are_no_terminal(capsys):
    """Beside a bar, and in a file, pictures stand below each other."""
    from rich.console import Console
    from rich.file_proxy import FileProxy

    fit(NET, X, LABELS, epochs=2, callbacks=DecisionBoundary(NET, X, LABELS, resolution=6))
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert len(shown) == 8
    assert not any("\x1b" in line for line in shown)
    behind = Terminal()
    proxy = FileProxy(Console(file=behind, force_terminal=True), behind)
    draw = DecisionBoundary(NET, X, LABELS, to=proxy, resolution=6)
    fit(NET, X, LABELS, epochs=2, callbacks=draw)
    assert "epoch 2" in behind.getvalue()
    assert "F\x1b[J" not in behind.getvalue()


def test_a_notebook_is_kept_up_to_date(monkeypatch):
    """IPython is stood in for: its kernel's presence, and the two functions that are used."""
    shown, updated = [], []
    module = types.ModuleType("IPython.display")
    handle = types.SimpleNamespace(update=updated.append)

    def display(value, display_id):
        shown.append(value)
        return handle

    module.SVG, module.HTML, module.display = str, str, display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    draw = DecisionBoundary(NET, X, LABELS, resolution=4)
    fit(NET, X, LABELS, epochs=3, callbacks=draw, progress=False)
    assert len(shown) == 1
    assert [
        "epoch 1" in shown[0],
        *(f"epoch {n}" in each for n, each in enumerate(updated, 2)),
    ] == [True] * 3


def test_what_is_drawn_of_one_two_and_more_outputs(backend, float64):
    rows = np.asarray([[0.0, 0.0, 5.0], [1.0, 2.0, 7.0]])
    x = backend.asarray(rows)
    weight = np.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for width in (1, 2, 3):
        net = Sequential(Linear(width, bias=False), BatchNorm())
        params = {"0": {"weight": backend.asarray(weight[:, :width])}}
        start = net.init(0, x)
        params |= {"1": start[0]["1"]}
        carry = types.SimpleNamespace(params=params, state=start[1])
        run = types.SimpleNamespace(state=types.SimpleNamespace(carry=carry))
        draw = DecisionBoundary(net, x, columns=(1, 0), resolution=3)
        found = draw.surface(run)
        plane = np.asarray([[b, a, 6.0] for b in (-0.1, 0.5, 1.1) for a in (-0.2, 1.0, 2.2)])
        outputs = plane[:, :width] / np.sqrt(1 + 1e-5)
        expected = {
            1: outputs,
            2: outputs[:, -1:] - outputs[:, :1],
            3: outputs.argmax(axis=1)[:, None],
        }[width]
        got = backend.to_host(found.values).reshape(9, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_planes_that_do_not_exist_are_said():
    whole = np.asarray([[0, 1, 1], [1, 0, 1]])
    model = Model(Linear(1, bias=False), {"weight": np.asarray([[1.0], [2.0], [4.0]])})
    found = inspection.decision_boundary(model, whole, columns=(0, 1), resolution=2)
    np.testing.assert_allclose(found.values[:, 0, 0], [4 - 0.3, 4 - 0.1 + 2.2])
    for columns, said in ((None, ""), ((0, 0), r" and columns=\(0, 0\)"), ((0, 3), r".*\(0, 3\)")):
        with pytest.raises(ValueError, match=rf"got \(2, 3\){said}\. To fix it: give columns="):
            inspection.decision_boundary(model, whole, columns=columns)


def test_wrong_rows_and_labels_are_said_before_training():
    for rows, labels, columns, said in (
        (X, LABELS[:5], None, "labels: expected one for each of 30 points, got 5"),
        (X, ["a"] * 30, None, "labels: expected numbers, got 'a'"),
        (X[:0], LABELS[:0], None, r"and a row or more, got \(0, 2\)"),
        (X.tolist(), LABELS, None, "got a list"),
        (X, LABELS, (0, 1, 0), r"got \(30, 2\) and columns=\(0, 1, 0\)"),
    ):
        draw = DecisionBoundary(NET, rows, labels, to=io.StringIO(), columns=columns)
        with pytest.raises(ValueError, match=said):
            fit(NET, X, LABELS, epochs=9, callbacks=draw)
    with pytest.raises(ValueError, match=r"points: expected the shape \(rows, 2\).*got \(30, 3\)"):
        to_png(Surface(X[:3, 0], X[:3, 0], np.eye(3)), points=np.ones((30, 3)))


def test_numbers_that_are_huge_or_none_are_drawn():
    x = np.arange(4.0)
    huge = np.where(np.add.outer(x, x) > 3, 1.7e308, -1.7e308)
    with np.errstate(all="raise"):
        assert to_terminal(Surface(x, x, huge), plain=True).splitlines() == [" @@@", "   @"]
        assert "nan" not in inspection.contour(Surface(x, x, huge))
        assert len(to_png(Surface(x, x, huge), lines=True)) > 100
    points = np.asarray([[np.nan, 0.0], [0.0, np.inf], [3.0, 0.0]])
    for labels in (None, [0, 1, 2], [np.nan] * 3):
        given = {"points": points, "labels": labels}
        assert inspection.heatmap(Surface(x, x, np.eye(4)), **given).count("<circle") == 1
        assert to_terminal(Surface(x, x, np.eye(4)), plain=True, **given)[-1] in "ox"
        assert to_terminal(Surface(x, x, np.eye(4)), **given)
        assert to_png(Surface(x, x, np.eye(4)), **given)


def test_the_png_is_what_other_programs_read():
    image = pytest.importorskip("matplotlib.image", reason="matplotlib reads the file")
    x = np.linspace(-1.0, 1.0, 8)
    values = x[:, None] + 10.0 * x
    values[0, 0] = np.nan
    points = np.asarray([[x[2], x[5]]])
    read = image.imread(io.BytesIO(to_png(Surface(x, x, values), points=points)))
    picture = np.rint(255 * read[..., :3]).astype(int)
    assert picture.shape == (400, 400, 3)
    assert picture[-1, 0].tolist() == [156, 163, 175]  # at the left below, grey
    assert picture[0, -1].tolist() == [253, 231, 37]  # the highest number: viridis' yellow
    assert picture[375, 75].tolist() == picture[399, 50].tolist()  # a cell is of one colour
    assert picture[125, 125].tolist() == [33, 145, 140]  # the only point: the middle of the scale
    assert picture[125, 128].tolist() == [255, 255, 255]  # and its edge
    lines = image.imread(io.BytesIO(to_png(Surface(x, x, values), lines=True, size=80)))
    assert 80 < (lines[..., :3] == 1.0).all(axis=2).sum() < 2000
    with pytest.raises(ValueError, match="size: expected a whole number of 1 or more, got 0"):
        to_png(Surface(x, x, values), size=0)


def test_text_without_colours():
    x = np.arange(4.0)
    values = x + 4 * x[:, None]
    values[3, 0] = np.inf
    found = to_terminal(
        Surface(x, x, values), points=np.asarray([[0.1, 0.0], [3.0, 2.1]]), labels=[0, 1],
        title="a", plain=True,
    )  # fmt: skip
    assert found.splitlines() == ["a", "?%%x", "o-=="]
    odd = to_terminal(Surface(x[:3], x[:3], values[:3, :3]))
    assert odd.count("\n") == 1
    assert odd.count("\u2580") == 6
