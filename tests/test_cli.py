"""The command line: what it does on every backend, and what it says when it cannot."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import polars
import pytest
from click.testing import CliRunner

import backends
import tinynn
from tests.command_line import (
    DIGITS,
    QUICK,
    ROOT,
    process,
    rows_of,
    run,
    train_model,
    write,
    write_flowers,
)
from tinynn.cli.app import app
from tinynn.tabular import fit_table, fitting, folds
from tinynn.training import files


@pytest.fixture
def flowers(tmp_path):
    return write_flowers(tmp_path)


@pytest.fixture
def model(flowers, tmp_path):
    return train_model(flowers, tmp_path)


# --- on every backend


@pytest.mark.reads_scalars
def test_classes(flowers, tmp_path, backend, variant):
    out, answers = tmp_path / "model.safetensors", tmp_path / "answers.csv"
    # One batch, so that a library that compiles for each shape does so once.
    options = ("--epochs", 60, "--hidden", "16", "--learning-rate", 0.03, "--batch-size", 90)
    text = run(
        *("train", flowers, "--target", "species", "--drop", "size", "--out", out),
        *("--backend", variant.spec, *options),
    )
    assert "90 rows, 19 of them held out" in text
    assert "'species': one of 'iris', 'rosa', 'viola'; from 3 inputs" in text
    assert "left out: 'unit': it never changes" in text
    assert f"on {backend!r}" in text
    assert float(re.search(r"held-out accuracy ([\d.]+)%", text)[1]) >= 80
    assert f"saved {out}" in text

    text = run("predict", out, flowers, "--backend", variant.spec, "--out", answers)
    assert float(re.search(r"accuracy ([\d.]+)%", text)[1]) >= 90
    got = rows_of(answers)
    assert len(got) == 90
    assert {row["prediction"] for row in got} == {"iris", "rosa", "viola"}
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in got)


def test_numbers(flowers, tmp_path, variant):
    out, answers = tmp_path / "model.safetensors", tmp_path / "answers.csv"
    text = run(
        *("train", flowers, "--target", "size", "--drop", "species", "--out", out),
        *("--backend", variant.spec, "--hidden", "none", "--epochs", 80),
        *("--learning-rate", 0.05, "--batch-size", 90),
    )
    assert "'size': a number" in text
    assert float(re.search(r"held-out R2 ([\d.]+)", text)[1]) > 0.99
    run("predict", out, flowers, "--backend", variant.spec, "--out", answers)
    predicted = [float(row["prediction"]) for row in rows_of(answers)]
    expected = [float(row["size"]) for row in rows_of(flowers)]
    assert predicted == pytest.approx(expected, abs=0.5)  # in the column's own unit


def test_same_answers_on_every_backend(model, flowers, tmp_path, variant):
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    run("predict", model, flowers, "--out", here)
    run("predict", model, flowers, "--out", there, "--backend", variant.spec)
    for one, other in zip(rows_of(here), rows_of(there), strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=5e-6)


# Every loss is trained with on all libraries by tests/test_engines.py.
@pytest.mark.only("numpy", "array_api_strict", "torch")
@pytest.mark.reads_scalars
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "nll", "absolute_error", "huber"])
def test_other_losses(loss, tmp_path, variant):
    out = tmp_path / "or.safetensors"
    options = ("--hidden", "4", "--dropout", 0, "--epochs", 60, "--learning-rate", 0.1)
    text = run("train", "or", "--loss", loss, "--backend", variant.spec, "--out", out, *options)
    if fitting.LOSSES[loss] != "identity":
        assert "training accuracy 100.0% (4 of 4 rows)" in text
    answers = tmp_path / "answers.csv"
    run("predict", out, "or", "--backend", variant.spec, "--out", answers)
    got = rows_of(answers)
    if fitting.LOSSES[loss] != "identity":
        assert [row["prediction"] for row in got] == ["0", "1", "1", "1"]
        assert all(float(row["probability"]) > 0.5 for row in got)
    else:
        assert [float(row["prediction"]) for row in got] == pytest.approx([0, 1, 1, 1], abs=0.4)


# --- once


@pytest.mark.parametrize("name", ["xor", "and", "first"])
def test_truth_tables_are_learned_with_the_defaults(name):
    text = run("train", name)
    assert "4 rows, 0 of them held out" in text
    assert "training accuracy 100.0% (4 of 4 rows)" in text
    assert "not saved" in text


def test_the_readmes_first_command(tmp_path):
    readme = (ROOT / "README.md").read_text()
    arguments = re.search(r"&& \.venv/bin/tinynn (train .*)", readme)[1]
    *arguments, out = arguments.replace("examples/data/digits.csv", DIGITS).split(" ")
    text = run(*arguments, tmp_path / out)
    assert "1797 rows, 359 of them held out" in text
    assert "epoch 34/34  loss" in text
    assert "97% or better" in readme
    assert float(re.search(r"held-out accuracy ([\d.]+)%", text)[1]) >= 97
    files.read(tmp_path / out)


def test_a_seed_says_it_all(flowers, tmp_path):
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / name
        run("train", flowers, "--target", "species", "--seed", seed, "--out", path, *QUICK)
        written.append(path.read_bytes())
    assert written[0] == written[1] != written[2]


def test_npz_and_parquet_and_csv_give_the_same_model(tmp_path):
    draw = np.random.default_rng(0)
    columns = {"x": draw.normal(size=40), "y": draw.normal(size=40)}
    columns["kind"] = (columns["x"] > columns["y"]).astype(int)
    np.savez(tmp_path / "a.npz", **columns)
    polars.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    polars.DataFrame(columns).write_csv(tmp_path / "a.csv")
    written = []
    for ending in ("npz", "parquet", "csv"):
        out = tmp_path / f"{ending}.safetensors"
        run("train", tmp_path / f"a.{ending}", "--target", "kind", "--out", out, *QUICK)
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


def test_the_model_file_holds_all_that_prediction_needs(model, flowers, tmp_path):
    loaded = tinynn.load(model)
    config = loaded.preparation.to_config()
    assert (config["kind"], config["format"]) == ("table", 1)
    assert config["target"]["classes"] == ("iris", "rosa", "viola")
    number, category = config["columns"]
    assert (number["name"], category["categories"]) == ("length", ("blue", "red"))
    assert 4 < number["scale"]["mean"] < 6
    json.dumps(config)
    # In Python it says what the command line says.
    answers = tmp_path / "answers.csv"
    run("predict", model, flowers, "--out", answers)
    table = polars.read_csv(flowers)
    assert loaded.predict(table).tolist() == [row["prediction"] for row in rows_of(answers)]
    best = loaded.predict_proba(table).max(axis=1)
    assert best == pytest.approx([float(r["probability"]) for r in rows_of(answers)], abs=1e-6)


@pytest.mark.reads_scalars
def test_fit_table_on_every_backend(flowers, variant, backend):
    table = polars.read_csv(flowers)
    options = {"epochs": 2, "hidden": (4,), "batch_size": 72, "progress": False}
    there = fit_table(table, "species", backend=variant.spec, **options)
    assert there.backend == backend
    here = fit_table(table, "species", **options)
    np.testing.assert_allclose(there.predict_proba(table), here.predict_proba(table), atol=2e-5)
    assert there.predict(table).dtype.kind == "U"
    measured, expected = (m.evaluate(table, table["species"]) for m in (there, here))
    assert measured == pytest.approx(expected, rel=1e-3)


def test_holes_and_categories_that_training_did_not_meet(model, tmp_path):
    rows = [[1, "", 2], [2, "red", ""], [3, "pink", 8], [4, "red", "NA"]]
    data = write(tmp_path / "new.csv", ["id", "colour", "length"], rows)
    result = process("predict", model, data, "--id", "id", "--probabilities")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "id,prediction,probability_iris,probability_rosa,probability_viola"
    assert [line[:2] for line in lines[1:]] == ["1,", "2,", "3,", "4,"]
    for line in lines[1:]:
        assert sum(map(float, line.split(",")[2:])) == pytest.approx(1, abs=1e-5)
    assert "'length': 2 of 4 cells are missing" in result.stderr
    assert "'colour': 1 of 4 cells hold 'pink', which training did not meet" in result.stderr
    assert "'colour': 1 of 4 cells are missing" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_table_of_every_kind_of_column(tmp_path):
    draw = random.Random(0)
    rows = []
    for i in range(80):
        x = draw.uniform(-1, 1)
        hole = "" if i % 9 == 0 else f"{draw.uniform(0, 5):.2f}".replace(".", ",")
        day = f"{1 + i % 28:02}.{1 + i % 12:02}.2024"
        rows.append([i, f"{1000 + 100 * i:,}", hole, day, f"{x:.0%}", f"p{i}", "yn"[x > 0]])
    data = write(tmp_path / "a.csv", ["", "pay", "dec", "day", "pct", "who", "y"], rows)
    text = run("train", data, "--target", "y", "--out", tmp_path / "m", "--epochs", 30)
    assert "left out: '': it is the index of a data frame" in text
    assert "left out: 'who': it has 64 different texts in 64 rows" in text
    assert "'pay': its commas are read as between thousands" in text
    inputs = tinynn.load(tmp_path / "m").preparation.inputs
    assert {"pay", "dec", "dec?", "day", "day:sin(week)", "pct"} <= set(inputs)
    assert float(re.search(r"held-out accuracy ([\d.]+)%", text)[1]) >= 80
    swapped = data.read_text().replace(".2024", "/2024")
    for old in range(1, 13):
        swapped = swapped.replace(f".{old:02}/", f"/{old:02}/")
    data.write_text("\n".join(line for line in swapped.splitlines()[:12]))  # days up to 11
    assert "--date day=dmy" in run("train", data, "--target", "y", status=1)
    assert "accuracy" in run("train", data, "--target", "y", "--date", "day=dmy", *QUICK)
    assert "day=ymd" not in run("train", data, "--target", "y", "--date", "day", status=2)


def test_balanced_class_weights(flowers, tmp_path):
    written = []
    for options in ((), ("--class-weight", "balanced")):
        run("train", flowers, "--target", "species", "--out", tmp_path / "m", *QUICK, *options)
        written.append((tmp_path / "m").read_bytes())
    assert written[0] != written[1]


def test_standard_input(model, flowers):
    result = subprocess.run(
        [sys.executable, "-m", "tinynn", "predict", str(model), "-", "--id", "length"],
        input=flowers.read_bytes(),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(b"length,prediction,probability\n")
    assert len(result.stdout.splitlines()) == 91
    assert b"accuracy" in result.stderr


def test_predict_needs_neither_target_nor_other_columns_nor_order(model, tmp_path):
    data = write(
        tmp_path / "new.csv", ["colour", "id", "length"], [["red", "?", 2], ["blue", 1, 8]]
    )
    result = process("predict", model, data)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "prediction,probability"
    assert len(lines) == 3


def test_progress_can_be_turned_off(flowers):
    assert "epoch 2/2  loss" in run("train", flowers, "--target", "species", *QUICK)
    assert "loss" not in run("train", flowers, "--target", "species", "--no-progress", *QUICK)


def test_validation_can_be_turned_off(flowers):
    text = run("train", flowers, "--target", "species", "--validation", 0, *QUICK)
    assert "90 rows, 0 of them held out" in text
    assert "training accuracy" in text


def test_backends_can_be_read_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("tinynn.cli.writing._is_terminal", lambda: True)
    lines = run("backends").splitlines()
    end = next((i for i, line in enumerate(lines) if ": " in line and line[0] != " "), len(lines))
    assert max(map(len, lines[:end])) <= 40 or " " not in max(lines[:end], key=len).strip()
    assert lines[0].startswith("numpy ")
    assert "  float64" in lines
    assert "  yes" in lines


def test_backends_are_listed():
    text = run("backends")
    for status in backends.available():
        assert status.name in text
        assert status.version in text
        assert status.default_float in text
        if not status.usable:
            assert status.fix in text  # on one line, brackets and all


def test_what_would_make_a_backend_faster_is_said_and_measured(monkeypatch):
    advice = backends.Advice(
        "do this", {"SPEED": "2"}, "import os; print(1 / int(os.environ.get('SPEED', 1)))"
    )
    monkeypatch.setattr(type(backends.get("numpy")), "advice", classmethod(lambda cls: advice))
    assert "numpy: do this\n" in run("backends")
    assert "numpy: do this; measured here: 2.00 times as fast\n" in run("backends", "--measure")


def test_without_what_the_command_line_takes_it_says_how_to_install_it():
    blocked = "import sys; sys.modules['click'] = None; from tinynn.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, cwd=ROOT, check=False
    )
    said = 'tinynn: the command line needs click: pip install "tinynn-xp[cli]"\n'
    assert (result.returncode, result.stdout, result.stderr) == (1, "", said)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends SIGINT to no single process")
def test_ctrl_c_keeps_the_last_whole_epoch(flowers, tmp_path):
    out = tmp_path / "m.safetensors"
    command = [sys.executable, "-m", "tinynn", "train", flowers, "--target", "species"]
    command += ["--out", out, "--epochs", "100000000"]
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run_:
        for line in run_.stdout:
            if line.startswith("target"):
                break
        time.sleep(4)  # to the end of an epoch
        run_.send_signal(signal.SIGINT)
        output, errors = run_.communicate(timeout=60)
    assert run_.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert f"saved {out}" in output
    assert tinynn.load(out).predict({"length": [1.0], "colour": ["red"], "size": [4]}).size == 1


def test_version_and_module():
    assert f"tinynn, version {tinynn.__version__}" in run("--version")
    result = process("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert tinynn.__version__ in result.stdout
    assert run("--help") == run("-h")


def test_every_loss_of_the_library_is_on_the_command_line():
    from tinynn import losses

    offered = {type(losses.get(name)) for name in fitting.LOSSES}
    # Tables standardise numbers, and these are of counts; or of more outputs than answers.
    others = {losses.Poisson, losses.GaussianNLL, losses.Quantile}
    # Without probabilities; of targets that are no column; of whole batches.
    others |= {losses.Hinge, losses.SquaredHinge, losses.MulticlassHinge, losses.CTC}
    others |= {losses.KLDivergence, losses.CosineDistance, losses.Triplet, losses.InfoNCE}
    assert offered == set(losses.NAMES.values()) - others


@pytest.mark.parametrize("many", [(), ("--networks", 2), ("--networks", 2, "--folds", 2)])
def test_training_is_gone_on_with(many, flowers, tmp_path):
    """From the state of an earlier command, with the result of one that was never ended."""
    asked = ("train", flowers, "--target", "size", "--drop", "species", "--hidden", "4", *many)
    kept, out = tmp_path / "run.safetensors", tmp_path / "model.safetensors"
    run(*asked, "--epochs", 3, "--checkpoint", kept)
    names = {path.name for path in tmp_path.glob("run*")}
    folds = {f"run.safetensors.fold{k}" for k in (1, 2)} if "--folds" in many else set()
    assert names == {"run.safetensors"} | folds
    text = run(*asked, "--epochs", 6, "--checkpoint", kept, "--resume", "--out", out)
    whole = run(*asked, "--epochs", 6, "--out", tmp_path / "whole.safetensors")
    one, other = (tinynn.load(path).predict for path in (out, tmp_path / "whole.safetensors"))
    table = {"length": [1.0, 5.0, 9.0], "colour": ["red", "blue", "red"]}
    np.testing.assert_allclose(one(table), other(table), rtol=1e-5)
    scores = [re.findall(r"^(?:fold|held|all|together).*", each, re.M) for each in (text, whole)]
    assert scores[0] == scores[1]
    assert "say --checkpoint" in run(*asked, "--resume", status=2)
    assert "file of another kind" in run(*asked, "--checkpoint", out, status=2)
    both = run(*asked, "--checkpoint", kept, "--out", kept, "--force", status=2)
    assert "where --checkpoint writes" in both


@pytest.mark.usefixtures("usual_ctrl_c")
def test_an_interrupt_in_a_fold_ends_them_all(flowers, tmp_path, monkeypatch):
    """Scores and intervals are of networks that were trained, and of no others."""
    trained = []

    def interrupted(*arguments, **options):
        stack = tinynn.fit_many(*arguments, **options)
        trained.append(stack)
        with suppress(KeyboardInterrupt):  # as `fit_many` does, which keeps the last whole epoch
            signal.raise_signal(signal.SIGINT)
        return stack

    monkeypatch.setattr(folds, "fit_many", interrupted)
    kept, out = tmp_path / "run.safetensors", tmp_path / "model.safetensors"
    asked = f"train {flowers} --target size --epochs 1 --folds 3 --checkpoint {kept} --out {out}"
    result = CliRunner().invoke(app, asked.split())
    assert result.exit_code == 130
    assert result.output.endswith("Interrupted.\n")
    assert "all folds" not in result.output
    assert len(trained) == 1
    assert [path.name for path in tmp_path.glob("[rm][uo]*")] == ["run.safetensors.fold1"]


def test_the_checkpoint_of_a_fold_replaces_no_file_of_another_kind(flowers, tmp_path):
    asked = ("train", flowers, "--target", "size", "--drop", "species", "--epochs", 1)
    kept, notes = tmp_path / "run.safetensors", tmp_path / "run.safetensors.fold2"
    notes.write_text("notes")
    text = run(*asked, "--folds", 2, "--checkpoint", kept, status=2)
    assert "run.safetensors.fold2: there is a file of another kind" in " ".join(text.split())
    assert notes.read_text() == "notes"
