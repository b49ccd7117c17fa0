"""The model of a checkpoint, and the checkpoint of the best epoch."""

from pathlib import Path
from typing import Any

import pytest

import backends
from backends import Backend
from tests.resumed import NET, Stop, assert_same, data
from tinynn import optim, tree
from tinynn.layers import Linear, Sequential
from tinynn.training import ModelFileError, Run, files, fit, load

pytestmark = pytest.mark.reads_scalars  # the checks look at values


def unsaid(prediction: Any, target: Any) -> Any:
    """A metric that does not say which direction is better."""
    return (prediction[:, 0] - 1.0).mean()


def test_a_checkpoint_is_loaded_as_a_model(backend: Backend, tmp_path: Path) -> None:
    x, y = data(backend)
    model = fit(NET, x, y, epochs=2, batch_size=5, metrics=["accuracy"], checkpoint=tmp_path / "f")
    loaded = load(tmp_path / "f", backend)
    assert_same(loaded, model)
    assert (loaded.loss, loaded.metrics) == (model.loss, model.metrics)
    assert loaded.evaluate(x, y) == model.evaluate(x, y)


def test_a_checkpoint_of_what_no_file_describes(tmp_path: Path) -> None:
    net = Sequential(Linear(3), lambda x: x * 2)
    x, y = data(backends.get("numpy"))
    fit(net, x, y, epochs=1, checkpoint=tmp_path / "file")
    with pytest.raises(
        ValueError, match=r"file: expected a network that .*lambda.*fit\(resume="
    ) as e:
        load(tmp_path / "file")
    assert not isinstance(e.value, ModelFileError), "nothing is wrong with the file"
    fit(net, x, y, epochs=2, checkpoint=tmp_path / "file", resume=True)


HARD: dict[str, Any] = {
    "batch_size": 5, "epochs": 9, "validation": 0.4, "metrics": ["accuracy"],
    "optimizer": optim.Adam(0.3), "every": 4, "engine": "eager", "seed": 1,
}  # fmt: skip


def best_epoch(history: dict[str, list[float]], measure: str) -> int:
    numbers = history[measure]
    return 1 + numbers.index((max if measure.endswith("accuracy") else min)(numbers))


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")  # on JAX it compiles for a minute
@pytest.mark.parametrize("keep_best", [True, "validation_accuracy", "loss"])
def test_the_best_epoch_is_kept(backend: Backend, tmp_path: Path, keep_best: bool | str) -> None:
    x, y = data(backend)
    models: list[Any] = []
    whole = fit(
        NET, x, y, checkpoint=tmp_path / "run", keep_best=keep_best, keep=2, **HARD,
        callbacks=[lambda run: models.append(run.params)],
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.1", "run.best"]
    best = best_epoch(whole.history, "validation_loss" if keep_best is True else keep_best)
    assert keep_best == "loss" or 1 < best < HARD["epochs"], (
        "an epoch in the middle, whatever `every` says"
    )
    loaded = load(tmp_path / "run.best", backend)
    assert loaded.history["epoch"][-1] == best
    for (name, a), (_, b) in zip(
        tree.paths(loaded.params), tree.paths(models[best - 1]), strict=True
    ):
        assert backend.to_host(a).tobytes() == backend.to_host(b).tobytes(), name
    assert_same(fit(NET, x, y, resume=tmp_path / "run.best", **{**HARD, "every": 1}), whole)


@pytest.mark.only("numpy")
def test_the_best_epoch_of_a_run_that_is_resumed(backend: Backend, tmp_path: Path) -> None:
    """Stopped, and killed in each of its epochs, it ends with the same files."""
    x, y = data(backend)
    given = {**HARD, "keep_best": True}
    fit(NET, x, y, checkpoint=tmp_path / "alone", **given)
    expected = [(tmp_path / name).read_bytes() for name in ("alone", "alone.best")]

    def stop(run: Run) -> None:
        if run.epoch == last:
            raise Stop

    # The file of another run in its place is replaced, and not compared with.
    fit(NET, x, y, checkpoint=tmp_path / "run", **{**given, "seed": 5})
    (tmp_path / "run").unlink()
    fit(NET, x, y, checkpoint=tmp_path / "run", resume=True, **{**given, "epochs": 3})
    for last in range(4, 10):  # noqa: B007 (stop reads it)
        with pytest.raises(Stop):  # the best may be ahead of the newest then
            fit(NET, x, y, checkpoint=tmp_path / "run", resume=True, callbacks=stop, **given)
    fit(NET, x, y, checkpoint=tmp_path / "run", resume=True, **given)
    assert [(tmp_path / name).read_bytes() for name in ("run", "run.best")] == expected


@pytest.mark.only("numpy")
def test_a_best_epoch_that_cannot_be_written(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(backend)
    write = files.write

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "run.best" and not full_disk.pop():
            raise OSError(28, "No space left on device")
        write(path, *args, **kwargs)

    full_disk = [True] * 20 + [False]  # for the first of them alone
    monkeypatch.setattr(files, "write", full)
    with pytest.warns(RuntimeWarning, match=r"epoch 1: the checkpoint .*run\.best cannot be writt"):
        model = fit(NET, x, y, checkpoint=tmp_path / "run", keep_best=True, **HARD)
    best = best_epoch(model.history, "validation_loss")
    assert load(tmp_path / "run.best").history["epoch"][-1] == best


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"keep_best": True},
            r"got 'validation_loss'.*name one of 'loss', or give validation=0\.1",
        ),
        ({"keep_best": "f1", "validation": 0.4}, "name one of 'loss', 'validation_loss'$"),
        ({"keep_best": "own", "metrics": [lambda p, t: p.sum()]}, "expected a measure of the run"),
        ({"keep_best": "unsaid", "metrics": [unsaid]}, "to know whether.*greater_is_better"),
        ({"keep_best": 3}, "expected True, False or the name of a measure, got 3"),
        ({"keep_best": True, "checkpoint": None}, "expected checkpoint= beside it"),
    ],
)
def test_measures_that_say_nothing_of_the_best(
    backend: Backend, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    x, y = data(backend)
    given = {"checkpoint": tmp_path / "run", "callbacks": [lambda run: pytest.fail("trained")]}
    with pytest.raises(ValueError, match=f"^fit: keep_best: .*{message}"):
        fit(NET, x, y, **{**given, **arguments})
    (tmp_path / "run.best").mkdir()
    with pytest.raises(IsADirectoryError, match=r"^fit: keep_best: expected the path of a file"):
        fit(NET, x, y, checkpoint=tmp_path / "run", keep_best="loss")


@pytest.mark.only("numpy")
def test_a_measure_of_several_numbers_has_no_best(backend: Backend, tmp_path: Path) -> None:
    x, y = data(backend)
    with pytest.raises(ValueError, match=r"fit: keep_best: expected .*several|whether a higher"):
        fit(NET, x, y, checkpoint=tmp_path / "run", metrics=["confusion_matrix"],
            keep_best="confusion_matrix")  # fmt: skip
