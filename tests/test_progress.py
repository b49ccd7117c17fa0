"""The progress bar, in terminals and notebooks."""

import re
import sys
import types

import numpy as np
import pytest

import backends
from tinynn.layers import Linear
from tinynn.training import Run, fit

LINE = np.asarray([[-2.0], [-1.0], [0.0], [1.0], [2.0], [3.0]], "float32")


def test_the_bar_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Linear(1), LINE, LINE, epochs=3, validation=0.34, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "", "what a program prints stays clean"
    assert "epoch 3/3" in shown.err
    assert "val loss" in shown.err
    assert "samples/s" in shown.err or "epochs/s" in shown.err


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_the_bar_keeps_its_width_and_its_numbers(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(columns))
    x = backends.get("numpy").asarray(LINE)
    fit(Linear(1), x, x, epochs=3, validation=0.34, metrics=["r2", "mae"], progress=True)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).partition("epoch 3/3")
    assert last[0].count("━") >= 12
    for name in ("loss", "val loss", "val r2", "val mae", "epochs/s"):
        assert name in " ".join(last[2].split()), name


def test_no_bar_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(Linear(1), LINE, LINE, epochs=1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(Linear(1), LINE, LINE, epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(Linear(1), LINE, LINE, epochs=1)
    assert "epoch 1/1" in capsys.readouterr().err


def test_without_rich_a_line_of_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("COLUMNS", "60")
    fit(Linear(1), LINE, LINE, epochs=3, progress=True)
    shown = capsys.readouterr().err
    assert shown.endswith("\n")
    *_, last = shown.rstrip("\n").split("\r")
    assert last.startswith("epoch 3/3  loss ")
    assert all(len(line) < 60 for line in shown.splitlines() for line in line.split("\r"))


def test_the_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython is stood in for: its kernel's presence, and the two functions that are used."""
    shown: list[str] = []
    display = types.ModuleType("IPython.display")
    handle = types.SimpleNamespace(update=shown.append)
    monkeypatch.setattr(display, "HTML", str, raising=False)
    monkeypatch.setattr(display, "display", lambda value, display_id: handle, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    fit(Linear(1), LINE, LINE, epochs=2)
    assert shown[-1].startswith('<progress value="12" max="12"></progress> epoch 2/2  loss ')
    fit(Linear(1), LINE, LINE, epochs=1, metrics=[lambda prediction, target: prediction[0, 0]])
    assert "&lt;lambda&gt; " in shown[-1]


def test_the_bar_is_closed_when_training_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(run: Run) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(Linear(1), LINE, LINE, progress=True, callbacks=[fail])
    assert "epoch 1/20" in capsys.readouterr().err
