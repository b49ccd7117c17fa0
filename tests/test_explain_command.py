"""tinynn explain: a model's next step, or the first one of a truth table."""

import pytest

import tinynn
from tests.command_line import run, train_model, write_flowers
from tinynn.optim import Adam


@pytest.fixture
def flowers(tmp_path):
    return write_flowers(tmp_path)


@pytest.fixture
def model(flowers, tmp_path):
    return train_model(flowers, tmp_path)


def test_a_model_on_a_table(model, flowers, tmp_path):
    picture, page = tmp_path / "step.svg", tmp_path / "step.html"
    shown = run("explain", model, flowers, "--values", "--picture", picture, "--page", page)
    assert "# layer 0, Linear(4), backward" in shown
    assert "= dropout_mask(key)" in shown
    assert len(shown.splitlines()) < 150
    assert f"wrote {picture}" in shown
    assert picture.read_text("utf-8").startswith("<svg")
    assert page.read_text("utf-8").startswith("<!doctype html>")
    again = run("explain", model, flowers, "--picture", picture, "--page", page)  # are replaced
    assert len(again.splitlines()) < 40
    assert "def run(" in run("explain", model, flowers, "--detail", "program")
    longer = run("explain", model, flowers, "--rows", "9")
    assert "h0 = x @ weight_0 + bias_0" in longer
    assert "# (9, 4)" in longer


@pytest.mark.parametrize("name", ["xor", "nand"])
def test_a_truth_table_by_name(name):
    """It is the first step that training does: the parameters are those after one epoch."""
    shown = run("explain", name, "--values", "--hidden", "2", "--dropout", "0")
    assert shown.startswith("# Sequential(Linear(2), relu, Linear(2)) on x (4, 2) and y (4,)")
    rows = shown.partition("\nbias_2 = ")[2].splitlines()[1].removeprefix("#").split()
    from tinynn.cli import reading
    from tinynn.tabular import fit_table

    model = fit_table(
        reading.read(name), "out", hidden=(2,), dropout=0.0, epochs=1, validation=0.0,
        report=lambda line: None, progress=False, batch_size=None,
    )  # fmt: skip
    assert [float(cell) for cell in rows] == pytest.approx(
        model.params["2"]["bias"].tolist(), rel=0.01, abs=1e-6
    )


def test_the_library_says_the_same(model, flowers):
    import polars

    table = polars.read_csv(flowers).head(4)
    loaded = tinynn.load(model)
    assert str(tinynn.explain(loaded, table, table, optimizer=Adam(0.003))) == run(
        "explain", model, flowers
    )


def test_mistakes(model, flowers, tmp_path):
    assert "Say DATA" in run("explain", model, status=2)
    assert "expected a model's file or a truth table (and, first," in run(
        "explain", "xnand", status=2
    )
    assert "takes no DATA" in run("explain", "xor", flowers, status=2)
    assert "--hidden is for truth tables" in run(
        "explain", model, flowers, "--hidden", "3", status=2
    )
    other = tmp_path / "step.gif"
    assert "ends in .svg or .png or .pdf" in run("explain", "xor", "--picture", other, status=2)
    assert "ends in .html" in run("explain", "xor", "--page", other, status=2)
    assert "does not exist" in run("explain", "xor", "--page", tmp_path / "no/a.html", status=2)
    assert not other.exists()
