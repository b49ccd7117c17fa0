"""The command line: what it says when it cannot, and that no good file is lost."""

import csv
import os
import random
import re
import struct

import numpy as np
import pytest
from click.testing import CliRunner

from tests.command_line import QUICK, process, run, train_model, write, write_flowers
from tinynn.cli import app as cli
from tinynn.cli.app import app
from tinynn.layers import Linear
from tinynn.training import files, fit


@pytest.fixture
def flowers(tmp_path):
    return write_flowers(tmp_path)


@pytest.fixture
def model(flowers, tmp_path):
    return train_model(flowers, tmp_path)


# --- what goes wrong


def test_errors_go_to_the_error_stream(tmp_path):
    for arguments, status in ((("train", tmp_path / "no.csv", "--target", "y"), 1), (("x",), 2)):
        result = process(*arguments)
        assert (result.returncode, result.stdout) == (status, "")
        assert result.stderr.count("Error: ") == 1
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nonesuch", "no library of that name"), ("array_api_strict:gpu", "array_api_strict")],
)
def test_backends_that_cannot_be_used(name, reason, model, flowers):
    for command in (("train", flowers, "--target", "species"), ("predict", model, flowers)):
        text = run(*command, "--backend", name, status=2)
        assert "--backend" in text
        assert reason in " ".join(text.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hidden", "64,x"], "64,32 or none"),
        (["--hidden", "0"], "64,32 or none"),
        (["--hidden", ""], "64,32 or none"),
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--dropout", "1"], "--dropout"),
        (["--validation", "1"], "--validation"),
        (["--seed", "-1"], "--seed"),
        (["--loss", "hinge"], "cross_entropy"),
    ],
)
def test_options_out_of_range(options, words):
    assert words in run("train", "xor", *options, status=2)


def test_the_target_has_to_be_said(flowers):
    assert "'length', 'colour', 'unit', 'size', 'species'" in run("train", flowers, status=2)
    assert "no column 'kind'" in run("train", flowers, "--target", "kind", status=1)


def test_bad_cells_are_found_before_training(tmp_path):
    good = [[1, "a", 0.1], [2, "b", 0.2], [3, "a", 0.3], [4, "b", 0.4]]
    for row, cell in [(2, "two"), (1, "inf"), (3, "1e999")]:
        rows = [list(cells) for cells in good]
        rows[row][0] = cell
        data = write(tmp_path / "bad.csv", ["x", "c", "y"], rows)
        text = run("train", data, "--target", "y", status=1)
        assert f"bad.csv: column 'x', line {row + 2}: expected a " in text
        assert "epoch" not in text


def test_a_loss_that_does_not_fit_the_target(flowers):
    for target, loss, words in [
        ("species", "squared_error", "column 'species', line 2: expected a number"),
        ("length", "cross_entropy", "column 'length', line 2: expected a whole number as a class"),
        ("species", "binary_cross_entropy", "column 'species': expected two classes"),
    ]:
        assert words in run("train", flowers, "--target", target, "--loss", loss, status=1)


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (["length"], [[1]], "no column 'colour'; it has 'length'"),
        (
            ["length", "colour"],
            [["long", "red"]],
            "'length', line 2: expected a number, got",
        ),
        (["length", "colour"], [["inf", "red"]], "'length', line 2: expected a (finite )?number"),
        (["length", "colour"], [], "expected rows of data"),
        (["length", "colour"], [[1]], "line 2: expected 2 cells"),
        (["length", "colour"], [[1e300, "red"]], "'length', line 2: .* deviations away"),
    ],
)
def test_data_that_the_model_cannot_take(model, tmp_path, header, rows, words):
    out = tmp_path / "answers.csv"
    out.write_text("kept")
    data = write(tmp_path / "new.csv", header, rows)
    assert re.search(words, run("predict", model, data, "--out", out, status=1))
    assert out.read_text() == "kept"


def test_files_that_are_no_models(model, flowers, tmp_path):
    whole = model.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for data in (b"", b"hello", whole[:-1], whole[:50], whole[:-1] + bytes([whole[-1] ^ 1])):
        bad.write_bytes(data)
        assert str(bad) in run("predict", bad, flowers, status=1)
    assert "does not exist" in run("predict", tmp_path / "none", flowers, status=2)


def test_a_model_that_knows_no_columns(flowers, tmp_path):
    path = tmp_path / "plain.safetensors"
    net = Linear(1)
    fit(net, np.ones((2, 1)), np.ones(2), loss="mse", epochs=1, progress=False).save(path)
    assert "tinynn.load" in run("predict", path, flowers, status=1)


# --- no good file is lost


def test_ctrl_c_in_the_first_epoch_saves_nothing(flowers, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fit_table", interrupted)
    out = tmp_path / "m.safetensors"
    result = CliRunner().invoke(
        app, ["train", str(flowers), "--target", "species", "--out", str(out)]
    )
    assert result.exit_code == 130
    assert result.output == "Interrupted.\n"
    assert not out.exists()


def test_a_column_of_ids_has_a_name_of_its_own(model, tmp_path):
    data = write(tmp_path / "a.csv", ["prediction", "length", "colour"], [[1, 2, "red"]])
    assert "--id" in run("predict", model, data, "--id", "prediction", status=1)
    assert "no column 'nr'" in run("predict", model, data, "--id", "nr", status=1)


def test_a_model_is_replaced_by_a_whole_one_only(model, flowers, monkeypatch):
    before = model.read_bytes()
    train = ("train", flowers, "--target", "species", "--out", model, *QUICK)
    for rate in ("1e300", "1e9"):
        assert "training diverged" in run(*train, "--learning-rate", rate, status=1)
    assert model.read_bytes() == before

    def fail(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert "the disk is full" in run(*train, "--seed", 5, status=1)
    assert model.read_bytes() == before
    assert not [path for path in model.parent.iterdir() if "tmp" in path.name]
    run(*train, "--seed", 5)
    assert model.read_bytes() != before
    files.read(model)


def test_other_files_are_replaced_on_demand_only(model, flowers, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("kept")
    train = ("train", flowers, "--target", "species", *QUICK)
    predict = ("predict", model, flowers)
    for command in (train, predict):
        assert "--force" in run(*command, "--out", note, status=2)
    assert "--force" in run(*predict, "--out", model, status=2)
    assert note.read_text() == "kept"
    assert "expected a file that ends in .csv" in run(*predict, "--out", note, "--force", status=2)
    run(*train, "--out", note, "--force")
    files.read(note)


def test_what_is_read_is_never_replaced(model, flowers, tmp_path):
    data, trained = flowers.read_bytes(), model.read_bytes()
    (tmp_path / "link.csv").symlink_to(flowers)
    for command in [
        ("train", flowers, "--target", "species", "--out", flowers),
        ("train", tmp_path / "link.csv", "--target", "species", "--out", flowers),
        ("predict", model, flowers, "--out", flowers),
        ("predict", model, flowers, "--out", model),
    ]:
        assert "what is to be read" in run(*command, "--force", status=2)
    assert (flowers.read_bytes(), model.read_bytes()) == (data, trained)


def test_out_is_checked_before_training(flowers, tmp_path):
    train = ("train", flowers, "--target", "species")
    for out in (tmp_path / "none/model", tmp_path):
        text = run(*train, "--out", out, status=2)
        assert "--out" in text
        assert "rows" not in text


def test_an_edited_header_is_no_model(model, flowers):
    """A file whose header lies about its length is refused, not read past its end."""
    blob = model.read_bytes()
    model.write_bytes(struct.pack("<Q", 2**60) + blob[8:])
    assert "digest" in run("predict", model, flowers, status=1)


def test_codes_are_no_numbers(tmp_path):
    rows = [[random.random(), code] for code in ["01067", "1067", "20095"] * 20]
    write(tmp_path / "codes.csv", ["size", "code"], rows)
    said = run("train", tmp_path / "codes.csv", "--target", "code", *QUICK)
    assert "01067" in said


def test_answers_to_a_table_without_targets(model, flowers, tmp_path):
    with open(flowers) as file:
        header, *rows = csv.reader(file)
    place = header.index("species")
    unknown = [[*row[:place], "", *row[place + 1 :]] for row in rows[:3]]
    write(tmp_path / "new.csv", header, unknown)
    out = tmp_path / "answers.csv"
    assert "not scored: " in run("predict", model, tmp_path / "new.csv", "--out", out)
    assert len(out.read_text().splitlines()) == 4
