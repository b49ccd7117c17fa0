"""From a table to a trained network, and from a network's output to answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backends import Backend
from tinynn import losses
from tinynn.cli.encoding import Category, Encoding
from tinynn.cli.table import Table
from tinynn.functional import log_softmax, relu, sigmoid, softmax
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.optim import Adam
from tinynn.trace import namespace
from tinynn.training import Model, fit
from tinynn.training.explain import Explanation, explain

# The name under which a model file's `extra` holds what prediction needs.
EXTRA = "table"
# Epochs, unless they are asked for: small tables need more of them for as many steps.
LEAST_EPOCHS, LEAST_STEPS = 30, 1500
# Rows to pass through the network at once when it answers.
ROWS_AT_ONCE = 8192


def _both(logits: Any) -> Any:
    """The probabilities of class 0 and class 1, from the logit of class 1: (batch, 2)."""
    return namespace(logits).concat([sigmoid(-logits), sigmoid(logits)], axis=1)


# Each loss that the command line knows: for classes, how the network's output becomes their
# probabilities, (batch, outputs) to (batch, classes); for numbers, None.
LOSSES: dict[str, Callable[[Any], Any] | None] = {
    "cross_entropy": softmax,
    "binary_cross_entropy": _both,
    "nll": lambda output: namespace(output).exp(output),
    "squared_error": None,
    "absolute_error": None,
    "huber": None,
}


@dataclass(frozen=True)
class Settings:
    """How to train; `epochs` None is as many as it takes for enough steps."""

    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.1
    label_smoothing: float = 0.1
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.003
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """What a network says of each row: a class and its probability, or a number alone."""

    values: Sequence[Any]
    probabilities: Sequence[float] | None

    def score(self, encoding: Encoding, table: Table) -> str:
        """How these answers compare with the target column of a table, in words."""
        target = encoding.target
        if isinstance(target, Category):
            truth = [target.categories[code] for code in target.encode(table)]
            right = sum(map(str.__eq__, self.values, truth))
            return f"accuracy {right / len(table):.1%} ({right} of {len(table)} rows)"
        numbers = table.numbers(target.name)
        mean = math.fsum(numbers) / len(numbers)
        errors = [answer - number for answer, number in zip(self.values, numbers, strict=True)]
        absolute = math.fsum(map(abs, errors)) / len(errors)
        spread = math.fsum((number - mean) ** 2 for number in numbers)
        r2 = f"{1 - math.fsum(e * e for e in errors) / spread:.3f}" if spread else "undefined"
        return f"R2 {r2}, mean absolute error {absolute:.4g} ({len(table)} rows)"


def check_classes(loss: str, encoding: Encoding) -> None:
    """Refuse a binary loss for a target of three classes or more: ValueError."""
    target = encoding.target
    classes = len(target.categories) if isinstance(target, Category) else 0
    if loss == "binary_cross_entropy" and classes != 2:
        raise ValueError(
            f"column {target.name!r}: expected two classes for {loss}, got {classes}. "
            "Use cross_entropy."
        )


def network(encoding: Encoding, loss: str, settings: Settings) -> Sequential:
    """Hidden layers with relu and dropout, and the outputs that the loss asks for."""
    target = encoding.target
    outputs = len(target.categories) if isinstance(target, Category) else 1
    layers: list[Any] = []
    for width in settings.hidden:
        layers += [Linear(width), relu]
        layers += [Dropout(settings.dropout)] if settings.dropout else []
    layers.append(Linear(1 if loss == "binary_cross_entropy" else outputs))
    return Sequential(*layers, *([log_softmax] if loss == "nll" else []))


def train(
    encoding: Encoding,
    loss: str,
    settings: Settings,
    training: Table,
    held: Table | None,
    backend: Backend,
    **options: Any,
) -> Model:
    """Train on one part of a table, and measure each epoch on the other, if there is one.

    The model's `extra` holds all that `answer` needs. `options` are passed on to `fit`.
    """
    chosen: Any = losses.get(loss)
    if hasattr(chosen, "label_smoothing"):
        chosen = replace(chosen, label_smoothing=settings.label_smoothing)
    model = fit(
        network(encoding, loss, settings),
        *_placed(encoding, training, backend),
        loss=chosen,
        optimizer=Adam(settings.learning_rate),
        epochs=settings.epochs or epochs_for(len(training), settings.batch_size),
        batch_size=settings.batch_size,
        validation=held and _placed(encoding, held, backend),
        metrics=["accuracy" if LOSSES[loss] else "r2"],
        seed=settings.seed,
        **options,
    )
    model.extra[EXTRA] = {"loss": loss, "encoding": encoding.to_json()}
    return model


def epochs_for(rows: int, batch_size: int) -> int:
    """Epochs that make enough steps.

    >>> epochs_for(1437, 32), epochs_for(4, 32)
    (34, 1500)
    """
    return max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / math.ceil(rows / batch_size)))


def encoding_of(model: Model) -> Encoding:
    """The encoding that a model was trained with; ValueError if it came from elsewhere."""
    if EXTRA not in model.extra:
        raise ValueError(
            "expected a model that `tinynn train` wrote, got one that knows no columns. "
            "Read it in Python: tinynn.load(path).predict(X)."
        )
    return Encoding.from_json(model.extra[EXTRA]["encoding"])


def answer(model: Model, table: Table) -> Answers:
    """Predict each row of a table: classes by their names, or numbers in their own unit."""
    encoding, backend = encoding_of(model), model.backend
    output = model.predict(_features(encoding, table, backend), ROWS_AT_ONCE)
    to_probabilities = LOSSES[model.extra[EXTRA]["loss"]]
    target = encoding.target
    if to_probabilities is None or not isinstance(target, Category):
        assert not isinstance(target, Category)
        return Answers(target.decode([row[0] for row in backend.to_host(output).tolist()]), None)
    with backend.scope():
        rows = backend.to_host(to_probabilities(output)).tolist()
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in rows]
    values = [target.categories[code] for code in likeliest]
    return Answers(values, [max(row) for row in rows])


def explained(model: Model, table: Table, values: bool) -> Explanation:
    """The training step of a model on the rows of a table that has its target."""
    encoding = encoding_of(model)
    optimizer = Adam(Settings.learning_rate)
    X, y = _placed(encoding, table, model.backend)
    return explain(
        model.net, X, y, loss=model.loss, params=model.params, optimizer=optimizer, values=values
    )


def _placed(encoding: Encoding, table: Table, backend: Backend) -> tuple[Any, Any]:
    """A table's features and target on a device: (rows, width), and (rows,)."""
    return (
        _features(encoding, table, backend),
        backend.asarray(encoding.target.encode(table)),
    )


def _features(encoding: Encoding, table: Table, backend: Backend) -> Any:
    return backend.asarray(encoding.features(table), backend.default_float)
