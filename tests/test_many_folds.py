"""fit_many: cross-validation in one program, networks that stop by themselves, and halving."""

import numpy as np
import polars
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.command_line import QUICK, run, write_flowers
from tinynn import fit, fit_many, tree
from tinynn.functional import tanh
from tinynn.functional.dense import _below, dropout
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.optim import SGD, Adam
from tinynn.tabular import fit_table, folds
from tinynn.training import EarlyStopping, SuccessiveHalving
from tinynn.training.many import engines

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 3)), RNG.normal(size=(23, 1))
NET = Sequential(Linear(4), tanh, Linear(1))


def assert_same(model, alone, backend, rtol):
    for ours, theirs in zip(*(tree.leaves(m.params) for m in (model, alone)), strict=True):
        np.testing.assert_allclose(backend.to_host(ours), backend.to_host(theirs), rtol, rtol)
    for name, values in alone.history.items():
        np.testing.assert_allclose(model.history[name], values, rtol=10 * rtol)


def test_each_network_equals_fit_without_its_fold(backend, tmp_path):
    given = {"seed": 3, "epochs": 1, "batch_size": None, "metrics": "mae", "engine": "eager"}
    x, y = backend.asarray(X[:20], dtype="float32"), backend.asarray(Y[:20], dtype="float32")
    stack = fit_many(Linear(1), x, y, optimizer=SGD([0.1, 0.01]), folds=2, **given)
    folds = backend.to_host(stack.folds)
    assert np.bincount(folds).tolist() == [10, 10]
    kept, held = (
        (backend.xp.take(x, i, axis=0), backend.xp.take(y, i, axis=0))
        for i in (backend.asarray(np.nonzero(folds == fold)[0]) for fold in (1, 0))
    )
    alone = fit(Linear(1), *kept, validation=held, optimizer=SGD(0.01), **given)
    assert_same(stack[2], alone, backend, 1e-4)
    unseen = backend.to_host(stack.out_of_fold(x))
    each = backend.to_host(stack.predict(x))
    assert unseen.shape == (2, 20, 1)
    np.testing.assert_array_equal(unseen[1, folds == 0], each[2, folds == 0])
    mean = stack.scores["validation_mae"].mean(axis=1)
    np.testing.assert_allclose(mean, np.abs(unseen - Y[:20]).mean(axis=(1, 2)), rtol=1e-5)
    assert stack.ranking("validation_mae")[0] == mean.argmin()
    stack.save(tmp_path / "stack")
    again = tinynn.load(tmp_path / "stack", backend)
    np.testing.assert_array_equal(backend.to_host(again.folds), folds)
    assert (again.kept, again.ranking()) == (stack.kept, stack.ranking())


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_batches_and_numbers_of_candidates_are_those_of_fit(engine):
    given = {"seed": 3, "epochs": 2, "batch_size": 5}
    stack = fit_many(
        NET, X[:20], Y[:20], optimizer=Adam([0.1, 0.01]), folds=2, engine=engine, **given
    )
    for place, (rate, fold) in enumerate(((0.1, 0), (0.1, 1), (0.01, 0), (0.01, 1))):
        rows = np.nonzero(stack.folds != fold)[0]
        alone = fit(NET, X[rows], Y[rows], optimizer=Adam(rate), engine="eager", **given)
        assert_same(stack[place], alone, tinynn.data.host(), 1e-9)


@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 2.0, 23)])
def test_folds_of_two_sizes_train_on_all_the_others(weight):
    given = {"epochs": 3, "batch_size": None, "engine": "eager"}
    stack = fit_many(NET, X, Y, folds=4, networks=1, sample_weight=weight, **given)
    assert sorted(np.bincount(stack.folds)) == [5, 6, 6, 6]
    for fold, model in enumerate(stack):
        rows, held = stack.folds != fold, stack.folds == fold
        weights = [None if weight is None else weight[each] for each in (rows, held)]
        alone = fit(
            NET, X[rows], Y[rows], sample_weight=weights[0],
            validation=(X[held], Y[held], *weights[1:][weight is None :]), **given,
        )  # fmt: skip
        assert_same(model, alone, tinynn.data.host(), 1e-10)


def test_folds_have_the_share_of_each_class_or_are_stretches():
    labels = np.asarray([0] * 12 + [1] * 8)
    stack = fit_many(Linear(2), X[:20], labels, folds=4, networks=1, epochs=1)
    for fold in range(4):
        assert np.bincount(labels[stack.folds == fold]).tolist() == [3, 2]
    np.testing.assert_allclose(stack.out_of_fold(X[:20])[0].sum(axis=-1), 1.0)  # probabilities
    stack = fit_many(Linear(1), X, Y, folds=4, networks=1, epochs=1, shuffle=False)
    assert stack.folds.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 5


@pytest.mark.parametrize("names", [True, False])
def test_samples_of_one_group_are_in_one_fold(names):
    """The folds are scikit-learn's, where no two groups are of one size; networks are fit's."""
    selection = pytest.importorskip("sklearn.model_selection", reason="folds are compared with")
    groups = np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 3, 4], [9, 6, 4, 3, 1]))
    given = {"epochs": 3, "batch_size": None}
    named = [f"farm {n}" for n in groups] if names else groups
    stack = fit_many(NET, X, Y, networks=1, folds=3, groups=named, engine="calls", **given)
    expected = np.zeros(23, int)
    for fold, (_, held) in enumerate(selection.GroupKFold(3).split(X, Y, groups)):
        expected[held] = fold
    assert stack.folds.tolist() == expected.tolist()
    assert sorted(np.bincount(stack.folds)) == [7, 7, 9]  # of which some are filled up
    for fold, model in enumerate(stack):
        rows, held = stack.folds != fold, stack.folds == fold
        alone = fit(NET, X[rows], Y[rows], validation=(X[held], Y[held]), engine="eager", **given)
        assert_same(model, alone, tinynn.data.host(), 1e-9)


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_each_network_stops_by_itself(engine):
    stop = EarlyStopping(patience=3)
    given = {"optimizer": Adam(0.1), "epochs": 40, "validation": 0.3}
    stack = fit_many(NET, X, Y, networks=4, engine=engine, early_stopping=stop, **given)
    assert len(set(stack.epochs)) > 1
    assert stack.kept == tuple(epoch - 3 for epoch in stack.epochs)
    for seed in (0, int(np.argmax(stack.epochs))):
        alone = fit(NET, X, Y, seed=seed, engine="eager", callbacks=stop, **given)
        assert len(alone.history["loss"]) == stack.epochs[seed]
        assert_same(stack[seed], alone, tinynn.data.host(), 1e-9)
    scores = stack.scores["validation_loss"][:, 0]
    assert stack.best is stack[int(scores.argmin())]


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_halving_drops_the_worst_and_trains_the_others_as_ever(engine):
    given = {"epochs": 16, "validation": (X, Y), "engine": engine, "networks": 8}
    whole = fit_many(NET, X, Y, **given)
    stack = fit_many(NET, X, Y, halving=SuccessiveHalving(), **given)
    assert sorted(stack.epochs) == [2, 2, 2, 2, 4, 4, 8, 16]
    alive = list(range(8))
    for epoch, count in ((2, 4), (4, 2), (8, 1)):
        alive = sorted(alive, key=lambda k, e=epoch: whole[k].history["validation_loss"][e - 1])
        assert all(stack.epochs[k] == epoch for k in alive[count:])
        alive = alive[:count]
    for k, length in enumerate(stack.epochs):
        expected = whole.history["loss"][k, :length]
        np.testing.assert_allclose(stack.history["loss"][k, :length], expected, rtol=1e-12)
    folded = fit_many(NET, X, Y, networks=4, folds=2, epochs=4, halving=SuccessiveHalving())
    assert sorted(folded.epochs) == [1] * 4 + [2] * 2 + [4] * 2
    assert folded.epochs[::2] == folded.epochs[1::2]


@pytest.mark.only("numpy", "jax")
def test_dropped_networks_are_not_computed(backend, monkeypatch):
    """By calls on all networks, and by the library's compiler; the others go on as they did."""
    engine = "jit" if backend.repeat is not None else "calls"
    kind, widths = {"jit": engines.Jit, "calls": engines.Calls}[engine], []

    def epoch(self, number, run=kind._epoch):
        losses = run(self, number)
        widths.append(losses.shape[0])
        return losses

    monkeypatch.setattr(kind, "_epoch", epoch)
    net, x, y = Sequential(Linear(2), Dropout(0.5), Linear(1)), *map(backend.asarray, (X, Y))
    given = {"networks": 4, "batch_size": 8, "validation": 0.3, "engine": engine}
    given |= {"optimizer": Adam([0.1, 0.2, 0.01, 0.02]), "epochs": 4}
    halved = fit_many(net, x, y, halving=SuccessiveHalving(), **given)
    assert widths == [4, 2, 1, 1]
    assert sorted(halved.epochs) == [1, 1, 2, 4]
    whole = fit_many(net, x, y, **given)
    for k, length in enumerate(halved.epochs):
        for name in ("loss", "validation_loss"):
            expected = whole.history[name][k, :length]
            np.testing.assert_allclose(halved.history[name][k, :length], expected, rtol=1e-5)
    last = halved.epochs.index(4)
    assert_same(halved[last], whole[last], backend, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [1.0, 0.7, 0.5, 1e-6, 0.999999])
def test_an_array_as_rate_drops_as_its_number_does(p, dtype):
    words = np.asarray([-(2**31), 2**31 - 1, -5, 0, round(p * 2**32) - 2**31 - 1], np.int32)
    number = float(np.asarray(p, dtype))
    expected = words.astype(object) < round(number * 2**32) - 2**31
    np.testing.assert_array_equal(_below(words, np.asarray(p, dtype)), expected)


def test_dropout_takes_an_array_as_rate(backend):
    x, key = backend.xp.ones((6, 5), dtype=backend.xp.float32), backends.random.key(3, backend)
    rate = backend.asarray(0.25, dtype="float32")
    assert_close(dropout(x, rate, key), backend.to_host(dropout(x, 0.25, key)), backend)


@pytest.mark.only("numpy", "torch", "cupy")
def test_dropout_rates_vary_in_one_program(backend):
    def net(rate):
        return Sequential(Linear(4), tanh, Dropout(rate), Linear(1))

    x, y = backend.asarray(X, dtype="float32"), backend.asarray(Y, dtype="float32")
    given = {"seed": 3, "epochs": 2, "batch_size": 12}
    stack = fit_many(net([0.0, 0.25]), x, y, **given)  # no warning: none is trained alone
    for model, rate in zip(stack, (0.0, 0.25), strict=True):
        assert_same(model, fit(net(rate), x, y, engine="eager", **given), backend, 1e-4)


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_loops_have_folds_rates_and_networks_that_stop():
    net = Sequential(Dropout([0.0, 0.5]), Linear(1))
    stop = {"early_stopping": EarlyStopping(patience=1), "halving": SuccessiveHalving()}
    given = {"optimizer": SGD(0.2), "epochs": 8, "batch_size": 4, "folds": 3, **stop}
    ours, eager = (fit_many(net, X, Y, engine=name, **given) for name in ("loops", "eager"))
    assert ours.epochs == eager.epochs
    assert ours.kept == eager.kept
    np.testing.assert_allclose(ours.params["1"]["weight"], eager.params["1"]["weight"], rtol=1e-9)


BAD = [
    ({"folds": 24}, "folds: expected 23 at most, as many as there are samples, got 24"),
    ({"folds": 1}, "folds: expected a whole number of 2 or more, got 1"),
    ({"folds": [2, 3]}, "folds: expected one for all networks"),
    ({"folds": 5, "validation": 0.2}, "folds: expected no validation= beside folds"),
    (
        {"folds": 5, "loss": lambda p, y: ((p - y) ** 2).mean()},
        "expected folds of one size under a loss",
    ),
    ({"groups": [0] * 23}, "groups: expected folds= beside groups"),
    ({"folds": 2, "groups": [0, 1]}, "groups: expected one for each of 23 samples, got 2"),
    (
        {"folds": 3, "groups": [0, 1] * 11 + [0]},
        "folds: expected 2 at most, as many as there are g",
    ),
    ({"folds": 2, "groups": [0, np.nan, 1] + [2] * 20}, "groups: .* got nan for sample 1"),
    ({"folds": 2, "groups": [0] * 22 + [None]}, "groups: .* got None for sample 22"),
    ({"folds": 2, "groups": [[0]] * 23}, r"groups: .* got \[0\] for sample 0"),
    ({"folds": 2, "groups": X}, r"groups: expected the shape \(samples,\), got \(23, 3\)"),
    ({"early_stopping": EarlyStopping()}, "EarlyStopping: expected monitor to be one of loss, "),
    ({"halving": SuccessiveHalving()}, "SuccessiveHalving: expected monitor to be one of loss"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_many(NET, X, Y, networks=2, **arguments)


@pytest.mark.parametrize("name", ["early_stopping", "halving"])
def test_what_stops_networks_is_of_its_kind(name):
    with pytest.raises(TypeError, match=rf"fit_many: {name}: expected an? \w+, got 3. To fix it"):
        fit_many(NET, X, Y, networks=2, folds=2, **{name: 3})


def test_several_numbers_are_nothing_to_stop_by():
    stop = EarlyStopping("validation_confusion_matrix", mode="min")
    given = {"networks": 2, "folds": 2, "metrics": "confusion_matrix", "early_stopping": stop}
    with pytest.raises(ValueError, match="EarlyStopping: expected monitor to be a single number"):
        fit_many(Linear(2), X, X[:, 0] > 0, **given)
    del given["early_stopping"]
    stack = fit_many(Linear(2), X, X[:, 0] > 0, epochs=2, **given)
    scores = stack.scores["validation_confusion_matrix"]
    assert scores.shape == (2, 2, 2, 2)
    assert scores.sum(axis=(1, 2, 3)).tolist() == [23, 23]


def test_all_networks_may_diverge():
    given = {"optimizer": SGD([1e30, 1e30]), "epochs": 9, "validation": 0.3, "metrics": "mae"}
    stop = EarlyStopping(patience=2)
    with pytest.warns(RuntimeWarning, match="no longer finite in 2 of 2 networks"):
        stack = fit_many(Linear(1), X, Y, batch_size=4, early_stopping=stop, **given)
    assert max(stack.epochs) < 9
    assert np.isfinite(stack.params["weight"]).all()


def test_what_stacks_cannot_answer():
    with pytest.raises(ValueError, match="factor to be a whole number of 2 or more"):
        SuccessiveHalving(1)
    stack = fit_many(NET, X, Y, networks=1, folds=2, epochs=1)
    with pytest.raises(ValueError, match="best: expected networks measured on the same samples"):
        _ = stack.best
    with pytest.raises(ValueError, match="X: expected the 23 samples of the training, got 3"):
        stack.out_of_fold(X[:3])
    with pytest.raises(ValueError, match="ranking: expected monitor to be one of loss, val"):
        stack.ranking("mae")
    alone = fit_many(NET, X, Y, networks=2, epochs=1)
    with pytest.raises(ValueError, match="out_of_fold: expected a stack of folds"):
        alone.out_of_fold(X)


# Tables.


def test_the_command_line_compares_networks_and_cross_validates(tmp_path):
    table = write_flowers(tmp_path)
    given = ("train", table, "--target", "species", "--no-progress", *QUICK)
    out = tmp_path / "m.safetensors"
    said = run(*given, "--networks", 3, "--folds", 4, "--out", out)
    lines = [line.split() for line in said.splitlines()]
    assert "3 networks, seeds 0 to 2, each trained 4 times without a fold" in said
    assert ["accuracy", "rows", "mean", "sd", "worst", "best"] in lines
    folds = [line for line in lines if line[0] == "fold"]
    assert sum(int(line[2]) for line in folds) == 90
    (whole,) = (line for line in lines if line[:2] == ["all", "folds"])
    mean = sum(int(line[2]) * float(line[3]) for line in folds) / 90
    assert mean == pytest.approx(float(whole[3]), abs=1e-3)
    assert len(tinynn.load(out).predict(polars.read_csv(table))) == 90
    said = run(*given, "--networks", 3, "--seed", 5)
    assert "held out" in said
    assert "seeds 5 to 7" in said
    assert "accuracy" in said.splitlines()[-3]  # of the best one
    said = run(*given, "--folds", 91, status=1)
    assert "folds: expected 90 at most, as many as there are samples, got 91" in said
    said = run(*given, "--networks", 2, "--validation", 0, status=2)
    assert "--networks needs rows to compare on" in said


@pytest.mark.parametrize("validation", [{"folds": 3}, {"validation": 0.3}])
def test_tables_of_numbers_report_r2(validation):
    table = {"x": np.linspace(0, 1, 40), "y": 3 * np.linspace(0, 1, 40) + 1}
    lines = []
    given = {"hidden": (), "learning_rate": 0.1, "epochs": 150, "report": lines.append}
    model = fit_table(table, "y", networks=3, **validation, **given)
    (row,) = (line.split() for line in lines if line.startswith(("all folds", "held out")))
    assert float(row[3]) > 0.99
    np.testing.assert_allclose(model.predict(table), table["y"], atol=0.3)
    with pytest.raises(ValueError, match="networks: expected rows to compare them on"):
        fit_table(table, "y", networks=3, validation=0.0)
    for count in (0, -2, True, 1.5):  # the first two trained one network
        with pytest.raises(ValueError, match="networks: expected a whole number of 1 or more"):
            fit_table(table, "y", networks=count)


@pytest.mark.parametrize("target", ["number", "kind"])
def test_each_fold_of_a_table_is_prepared_without_its_rows(target, monkeypatch):
    """Scales, categories and what is left out are of the rows that the networks are trained on."""
    draw = np.random.default_rng(0)
    table = {
        "x": draw.normal(size=41) ** 3,
        "text": ["rare", *["a", "b", "c", "d"] * 10],
        "number": draw.normal(size=41),
        "kind": ["u", *["u", "v"] * 20],
    }
    seen = []

    def noted(net, X, y, **given):
        mean = np.asarray(X)[:, 0].mean()
        assert abs(mean) < 1e-6, "in deviations from the mean of these rows alone"
        seen.append(X.shape)
        return fit_many(net, X, y, **given)

    monkeypatch.setattr(folds, "fit_many", noted)
    lines = []
    drop = ["kind" if target == "number" else "number"]
    fit_table(table, target, drop=drop, folds=4, networks=2, epochs=1, report=lines.append)
    assert sorted(shape[0] for shape in seen) == [30, 31, 31, 31]
    assert sorted({shape[1] for shape in seen}) == [5, 6], "one fold alone lacks the rare text"
    (whole,) = (line.split() for line in lines if line.startswith("all folds"))
    assert whole[2] == "41"
    with pytest.raises(ValueError, match="folds: expected 41 at most, as many as there are sampl"):
        fit_table(table, target, folds=42)


def test_folds_of_a_table_are_stratified():
    strata = np.asarray([0] * 20 + [1] * 12 + [2] * 3)
    numbers = folds.fold_numbers(strata, 4, seed=1)
    counts = [[int((strata[numbers == f] == s).sum()) for f in range(4)] for s in range(3)]
    assert counts[0] == [5, 5, 5, 5]
    assert counts[1] == [3, 3, 3, 3]
    assert sorted(counts[2]) == [0, 1, 1, 1]
    assert (numbers != folds.fold_numbers(strata, 4, seed=2)).any()
