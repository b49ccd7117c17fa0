"""Models that carry the preparation of their tables."""

import random
import warnings

import numpy as np
import polars
import pytest

import tinynn
from tests.tables import FRAMES, holes
from tinynn.cli import reading
from tinynn.layers import Linear, Sequential
from tinynn.tabular import TableError, TrainingDiverged, fit_table

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
impute = pytest.importorskip("sklearn.impute")
preprocessing = pytest.importorskip("sklearn.preprocessing")

QUICK = {"epochs": 2, "hidden": (4,), "progress": False}


def test_the_same_model_through_every_frame_and_file(tmp_path):
    columns = holes()
    frame = polars.DataFrame(columns)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    pandas.DataFrame(columns).to_csv(tmp_path / "pandas.csv")
    tables = {name: make(columns) for name, make in FRAMES.items()}
    tables |= {n: reading.read(str(tmp_path / n)) for n in ("a.csv", "a.parquet", "pandas.csv")}
    tables["pandas of csv"] = pandas.read_csv(tmp_path / "pandas.csv")
    tables["pyarrow of parquet"] = parquet.read_table(tmp_path / "a.parquet")
    tables["text"] = frame.select(polars.all().cast(polars.String))
    for target in ("kind", "size"):
        written, answers = {}, {}
        for name, table in tables.items():
            model = fit_table(table, target, drop=["size" if target == "kind" else "kind"], **QUICK)
            model.preparation.left_out.clear()  # an index is in some of them
            model.save(tmp_path / "model")
            written[name] = (tmp_path / "model").read_bytes()
            answers[name] = tinynn.load(tmp_path / "model").predict(table).tolist()
        assert len(set(written.values())) == 1, {k: hash(v) for k, v in written.items()}
        assert all(each == answers["dict"] for each in answers.values())


def iris():
    data = pytest.importorskip("sklearn.datasets").load_iris(as_frame=True)
    return data.frame.assign(target=data.target_names[data.target]), "target", 0.93


def diabetes():
    return (
        pytest.importorskip("sklearn.datasets").load_diabetes(as_frame=True).frame,
        "target",
        0.35,
    )


def affairs():
    frame = pytest.importorskip("statsmodels.datasets.fair").load_pandas().data
    return frame.assign(affairs=frame["affairs"] > 0), "affairs", 0.68


def election():
    return pytest.importorskip("statsmodels.datasets.anes96").load_pandas().data, "vote", 0.85


@pytest.mark.parametrize("read", [iris, diabetes, affairs, election])
def test_tables_of_other_packages(read, tmp_path):
    frame, target, least = read()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit_table(
            frame, target, epochs=20, batch_size=16 if len(frame) < 500 else 128, progress=False
        )
    model.save(tmp_path / "model")
    loaded = tinynn.load(tmp_path / "model")
    answers = loaded.predict(polars.from_pandas(frame))
    assert (answers == loaded.predict(frame)).all()
    last = model.history.last
    assert max(last.get("validation_accuracy", 0), last.get("validation_r2", 0)) > least
    measured = loaded.evaluate(frame, frame[target])
    if "accuracy" in measured:
        right = np.mean(answers == frame[target].to_numpy())
        assert measured["accuracy"] == pytest.approx(right, abs=1e-6)
        chances = loaded.predict_proba(frame)
        assert chances.shape == (len(frame), model.preparation.target.width)
        assert chances.sum(axis=1) == pytest.approx(1, abs=1e-5)
        labels = model.preparation.target.values
        assert (labels[chances.argmax(axis=1)] == answers).all()
    else:
        errors = answers - frame[target].to_numpy()
        assert measured["r2"] == pytest.approx(
            1 - errors.var() / frame[target].var(ddof=0), abs=0.02
        )
        with pytest.raises(ValueError, match="predict_proba: expected a target of classes"):
            loaded.predict_proba(frame)


@pytest.mark.parametrize(
    "options", [{"validation": 1}, {"epochs": 0}, {"batch_size": 0}, {"loss": "hinge"}]
)
def test_options_out_of_range(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: expected"):
        fit_table(holes(), "kind", progress=False, **options)


def test_rows_without_a_target_are_left_out():
    columns = holes()
    columns["kind"][:7] = [None] * 7
    with pytest.warns(UserWarning, match=r"'kind': 7 of 120 rows have no target and are left out"):
        model = fit_table(columns, "kind", **QUICK)
    assert model.predict(columns).shape == (120,)
    with pytest.raises(TableError, match="'kind', row 0: expected a target, got an empty cell"):
        model.evaluate(columns, columns["kind"])
    columns["kind"][0] = "middle"
    with pytest.raises(
        TableError, match="'kind', row 0: expected one of 'high', 'low', got 'middle'"
    ):
        model.evaluate(columns, columns["kind"])


def test_a_network_and_a_loss_of_ones_own():
    columns = holes()
    told = []
    model = fit_table(
        columns,
        "kind",
        net=Sequential(Linear(1)),
        loss="binary_cross_entropy",
        label_smoothing=0.0,
        epochs=30,
        progress=False,
        report=told.append,
    )
    assert model.net == Sequential(Linear(1))
    assert model.loss.label_smoothing == 0
    assert told[0] == "table: 120 rows, 24 of them held out"
    assert told[1].startswith("target 'kind': one of 'high', 'low'; from ")
    assert told[-1].startswith("held-out accuracy ")
    chances = model.predict_proba(columns)
    assert ((chances[:, 1] > 0.5) == (model.predict(columns) == "low")).all()
    with pytest.raises(TableError, match="expected two classes for binary_cross_entropy, got 3"):
        fit_table(
            {**columns, "colour": ["a", "b", "c"] * 40}, "colour", loss="binary_cross_entropy"
        )


def test_balanced_classes_count_alike():
    draw = random.Random(0)
    x = [draw.gauss(0, 1) + (i % 20 == 0) for i in range(400)]
    columns = {"x": x, "rare": [i % 20 == 0 for i in range(400)]}
    options = {"hidden": (), "epochs": 60, "progress": False, "label_smoothing": 0.0}
    plain = fit_table(columns, "rare", **options)
    balanced = fit_table(columns, "rare", class_weight="balanced", **options)
    assert plain.predict(columns).mean() < 0.05
    assert 0.1 < balanced.predict(columns).mean() < 0.6
    same = fit_table(columns, "rare", class_weight={False: 1.0, True: 19.0}, **options)
    assert (same.predict(columns) == balanced.predict(columns)).mean() > 0.97
    for given, words in [({True: 1.0}, "'balanced' or a dict"), ("even", "'balanced' or a dict")]:
        with pytest.raises(ValueError, match=words):
            fit_table(columns, "rare", class_weight=given)
    with pytest.raises(ValueError, match="expected a target of classes"):
        fit_table(columns, "x", class_weight="balanced")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what overflows on the way
@pytest.mark.parametrize("target", ["kind", "size"])
def test_training_that_diverges_is_an_error(target):
    with pytest.raises(TrainingDiverged, match="training diverged: expected a loss near"):
        fit_table(holes(), target, learning_rate=1e9, **{**QUICK, "epochs": 5})


def test_the_step_of_a_model_can_be_explained():
    columns = holes()
    model = fit_table(columns, "kind", dropout=0.0, **QUICK)
    assert "# layer 0, Linear(4)" in str(tinynn.explain(model, columns, columns["kind"]))


def test_a_model_without_a_preparation_and_a_reader_without_one(tmp_path):
    plain = tinynn.fit(Linear(1), [[1.0], [2.0]], [1.0, 2.0], epochs=1, progress=False)
    with pytest.raises(TypeError, match=r"SquaredError\(\): .* it has no probabilities"):
        plain.predict_proba([[1.0]])
    bits = tinynn.fit(Linear(1), [[1.0], [2.0]], [0, 1], epochs=1, progress=False)
    assert 0.0 < bits.predict_proba([[1.0]]).max() < 1.0
    fit_table(holes(), "kind", **QUICK).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"read it with tinynn\.load"):
        tinynn.training.load(tmp_path / "model")
