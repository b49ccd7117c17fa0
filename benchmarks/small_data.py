"""Small networks on small data: time to the error that scikit-learn's perceptrons end with.

    python benchmarks/small_data.py [--seeds 3] [--only diabetes,iris] [--keras]

In one process, on one thread and in turn, in processor time, all that `fit` does included. One
hidden layer of 16 (tanh), inputs and numeric targets scaled to unit variance, float64, a fifth of
the rows held out. scikit-learn's MLPRegressor and MLPClassifier train by Adam and by L-BFGS with
their other defaults, up to 1,000 epochs. What each ends with is a goal: the mean squared error or
cross-entropy in training and the penalty of their alpha=1e-4 over all rows, which is what L-BFGS
minimizes (Adam divides the penalty by its batch of 200 rows at most). tinynn trains the same
network from the same weights for that sum with optimizer="auto" and EarlyStopping(goal=), until it
is there, 1,500 steps at most. PyTorch trains to the error that Adam
ends with, no penalty on either side, in float32 with its defaults of Adam in batches of 32,
100 epochs at most, and with the best of three rates and L-BFGS with its line search, of which the
time of the best alone counts; Keras on JAX likewise with two rates, compiling included. "inf" is a
goal that was not reached. The tables are those that come with scikit-learn and statsmodels, and
made ones of known noise. Programs of tinynn are kept in a process: the first run of a table, of the
first seed and for Adam's goal, makes its program, and the later ones take it. Medians over the
seeds and, for the ratio, least and largest.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import click  # noqa: E402
import numpy as np  # noqa: E402
from eager import machine  # noqa: E402
from sklearn import datasets  # noqa: E402
from sklearn.metrics import log_loss  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import tinynn  # noqa: E402
from tinynn.functional import tanh  # noqa: E402
from tinynn.layers import Linear, Sequential  # noqa: E402
from tinynn.sklearn.networks import PenalizedStep  # noqa: E402
from tinynn.training import EarlyStopping, prepare, train  # noqa: E402

HIDDEN, EPOCHS, STEPS = 16, 1000, 1500
ALPHA = 1e-4  # scikit-learn's default


@dataclass(frozen=True)
class Table:
    """What is learnt: `data` gives X and y, y of floats for a regression."""

    name: str
    data: Callable[[], tuple[Any, Any]]


def of_statsmodels(name: str, target: str, labels: bool = False) -> Callable[[], tuple[Any, Any]]:
    """A table of statsmodels: its numeric columns."""

    def data() -> tuple[Any, Any]:
        import statsmodels.datasets

        frame = getattr(statsmodels.datasets, name).load_pandas().data
        frame = frame.select_dtypes("number").dropna()
        y = frame.pop(target).to_numpy()
        return frame.to_numpy(dtype=float), y.astype(int) if labels else y.astype(float)

    return data


def of_sklearn(load: Any) -> Callable[[], tuple[Any, Any]]:
    def data() -> tuple[Any, Any]:
        X, y = load(return_X_y=True)
        return X, y[:, 0] if y.ndim == 2 else y

    return data


def made(make: Any, **options: Any) -> Callable[[], tuple[Any, Any]]:
    return lambda: make(random_state=0, **options)


def sine() -> tuple[Any, Any]:
    x = np.linspace(-3.0, 3.0, 250).reshape(-1, 1)
    return x, np.sin(2.0 * x[:, 0]) + 0.05 * np.random.RandomState(0).randn(250)


TABLES = [
    Table("diabetes", of_sklearn(datasets.load_diabetes)),
    Table("linnerud", of_sklearn(datasets.load_linnerud)),
    Table("iris", of_sklearn(datasets.load_iris)),
    Table("wine", of_sklearn(datasets.load_wine)),
    Table("breast cancer", of_sklearn(datasets.load_breast_cancer)),
    Table("longley", of_statsmodels("longley", "TOTEMP")),
    Table("stackloss", of_statsmodels("stackloss", "STACKLOSS")),
    Table("ccard", of_statsmodels("ccard", "AVGEXP")),
    Table("engel", of_statsmodels("engel", "foodexp")),
    Table("copper", of_statsmodels("copper", "WORLDCONSUMPTION")),
    Table("scotland", of_statsmodels("scotland", "YES")),
    Table("cpunish", of_statsmodels("cpunish", "EXECUTIONS")),
    Table("statecrime", of_statsmodels("statecrime", "murder")),
    Table("grunfeld", of_statsmodels("grunfeld", "invest")),
    Table("spector", of_statsmodels("spector", "GRADE", labels=True)),
    Table("sine", sine),
    Table("Friedman 1", made(datasets.make_friedman1, n_samples=400, noise=1.0)),
    Table("Friedman 2", made(datasets.make_friedman2, n_samples=400, noise=50.0)),
    Table("Friedman 3", made(datasets.make_friedman3, n_samples=400, noise=0.1)),
    Table("moons", made(datasets.make_moons, n_samples=400, noise=0.2)),
    Table("circles", made(datasets.make_circles, n_samples=400, noise=0.1)),
]


def split(table: Table, seed: int) -> tuple[Any, ...]:
    """X and y to train on and held out, scaled by what is trained on."""
    X, y = table.data()
    parts = train_test_split(X, y, test_size=0.2, random_state=seed)
    scale = StandardScaler().fit(parts[0])
    train, held, y_train, y_held = scale.transform(parts[0]), scale.transform(parts[1]), *parts[2:]
    if y.dtype.kind == "f":
        center, width = y_train.mean(), y_train.std()
        y_train, y_held = (y_train - center) / width, (y_held - center) / width
    return train, held, y_train, y_held


def error(y: Any, prediction: Any) -> float:
    """The mean squared error, or the cross-entropy of probabilities."""
    if y.dtype.kind == "f":
        return float(np.mean((np.reshape(prediction, y.shape) - y) ** 2))
    return float(log_loss(y, prediction, labels=range(prediction.shape[1])))


def minimized(y: Any, prediction: Any, weights: list[Any]) -> float:
    """The error and the penalty over all rows, which tinynn and scikit-learn's L-BFGS minimize.

    scikit-learn has half the squared error, and half of alpha times the squares of the weights for
    numbers and for classes: beside the whole squared error it is all of alpha.
    """
    share = ALPHA if y.dtype.kind == "f" else 0.5 * ALPHA
    return error(y, prediction) + share * sum(float(np.sum(w * w)) for w in weights) / len(y)


def scikit(solver: str, seed: int, X: Any, y: Any, held: Any, y_held: Any) -> tuple[float, ...]:
    """(seconds, what is minimized, error in training, error held out)"""
    kind = MLPRegressor if y.dtype.kind == "f" else MLPClassifier
    model = kind(
        hidden_layer_sizes=(HIDDEN,),
        activation="tanh",
        solver=solver,
        alpha=ALPHA,
        max_iter=EPOCHS,
        random_state=seed,
    )
    start = process_time()
    model.fit(X, y)
    took = process_time() - start
    answer = model.predict if y.dtype.kind == "f" else model.predict_proba
    found = answer(X)
    goal = minimized(y, found, model.coefs_)
    return took, goal, error(y, found), error(y_held, answer(held))


def start(seed: int, inputs: int, outputs: int) -> list[Any]:
    """The weights that scikit-learn's perceptrons start from: weight, bias, weight, bias."""
    rng, arrays = np.random.RandomState(seed), []
    for shape in ((inputs, HIDDEN), (HIDDEN, outputs)):
        bound = (6.0 / sum(shape)) ** 0.5
        arrays += [rng.uniform(-bound, bound, shape), rng.uniform(-bound, bound, shape[1])]
    return arrays


def outputs_of(y: Any) -> int:
    """One for numbers and for two classes, as scikit-learn has it."""
    return 1 if y.dtype.kind == "f" or y.max() == 1 else int(y.max()) + 1


def ours(goal: float, seed: int, X: Any, y: Any, held: Any, y_held: Any) -> tuple[Any, ...]:
    """(seconds, what is minimized, error held out, optimizer)"""
    numbers, outputs = y.dtype.kind == "f", outputs_of(y)
    net = Sequential(Linear(HIDDEN), tanh, Linear(outputs))
    w0, b0, w2, b2 = start(seed, X.shape[1], outputs)
    params = {"0": {"weight": w0, "bias": b0}, "2": {"weight": w2, "bias": b2}}
    loss = "squared_error" if numbers else None
    if not numbers:
        loss = "binary_cross_entropy" if outputs == 1 else "softmax_cross_entropy"
    stop = EarlyStopping("loss", goal=goal, patience=STEPS, restore_best=False)
    began = process_time()
    problem = prepare(net, X, y, loss=loss, optimizer="auto", seed=seed, params=params)
    step = problem.step
    penalized = PenalizedStep(
        net, step.loss, step.optimizer, by_row=step.by_row, alpha=2 * ALPHA if numbers else ALPHA
    )
    run = train(
        replace(problem, step=penalized), STEPS, callbacks=[stop], progress=False
    )  # as the estimators of tinynn.sklearn do
    found = run.state.carry.params
    took = process_time() - began

    def answer(x: Any) -> Any:
        out = net(found, x)
        if numbers:
            return out
        chances = step.loss.probabilities(out)
        return np.c_[1.0 - chances, chances] if outputs == 1 else chances

    weights = [found[place]["weight"] for place in ("0", "2")]
    reached = minimized(y, answer(X), weights)
    return took, reached, error(y_held, answer(held)), type(step.optimizer).__name__


TORCH = [("Adam", 1e-3), ("Adam", 1e-2), ("Adam", 3e-2), ("L-BFGS", 1.0)]  # the first by default


def pytorch(way: tuple[str, float], goal: float, seed: int, train: Any, y: Any) -> float:
    """Seconds to the goal; infinity if it is not reached."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    numbers, outputs = y.dtype.kind == "f", outputs_of(y)
    few = numbers or outputs == 1
    X = torch.as_tensor(train, dtype=torch.float32)
    target = torch.as_tensor(y, dtype=torch.float32 if few else torch.int64)
    target = target[:, None] if few else target
    net = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, outputs)
    )
    if numbers:
        loss: Any = torch.nn.MSELoss()
    else:
        loss = torch.nn.BCEWithLogitsLoss() if few else torch.nn.CrossEntropyLoss()
    whole = way[0] == "L-BFGS"
    if whole:
        optimizer: Any = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe")
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr=way[1])
    began = process_time()
    for _ in range(100):
        total = 0.0
        for rows in torch.randperm(len(X)).split(len(X) if whole else 32):

            def closure(rows: Any = rows) -> Any:
                optimizer.zero_grad()
                here = loss(net(X[rows]), target[rows])
                here.backward()
                return here

            here = optimizer.step(closure)
            total += float(here.detach()) * len(rows)
        if total / len(X) <= goal:
            return process_time() - began
    return float("inf")


def keras(rate: float, goal: float, seed: int, train: Any, y: Any) -> tuple[float, float]:
    """Seconds to the goal by Keras on JAX, all of them and those after the first epoch.

    The first epoch compiles. Both are infinity if the goal is not reached.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as library

    library.utils.set_random_seed(seed)
    numbers, outputs = y.dtype.kind == "f", outputs_of(y)
    net = library.Sequential(
        [library.layers.Dense(HIDDEN, activation="tanh"), library.layers.Dense(outputs)]
    )
    if numbers:
        loss: Any = "mse"
    elif outputs == 1:
        loss = library.losses.BinaryCrossentropy(from_logits=True)
    else:
        loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)

    first = [0.0]

    class There(library.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not epoch:
                first[0] = process_time()
            self.model.stop_training = self.last(logs) <= goal

        def last(self, logs: Any) -> float:
            return float(logs["loss"])

    began = process_time()
    net.compile(optimizer=library.optimizers.Adam(rate), loss=loss)
    history = net.fit(train, y, epochs=100, batch_size=32, verbose=0, callbacks=[There()])
    ended = process_time()
    if history.history["loss"][-1] > goal:
        return float("inf"), float("inf")
    return ended - began, ended - first[0]


def round_of(table: Table, seed: int, with_keras: bool = False) -> dict[str, dict[str, Any]]:
    """All of them on one split, for the goal that each of scikit-learn's solvers sets."""
    X, held, y, y_held = split(table, seed)
    found: dict[str, dict[str, Any]] = {}
    for solver in ("adam", "lbfgs"):
        took, goal, plain, theirs = scikit(solver, seed, X, y, held, y_held)
        time, reached, answer, name = ours(goal, seed, X, y, held, y_held)
        found[solver] = {
            "goal": goal, "plain": plain, "theirs": took, "rows": len(y),
            "ours": time if reached <= goal * 1.001 else float("inf"),
            "held": (theirs, answer), "optimizer": name,
        }  # fmt: skip
    goal = found["adam"]["plain"]
    times = [pytorch(way, goal, seed, X, y) for way in TORCH]
    found["adam"]["torch"] = times[0], min(times)
    rates = [rate for name, rate in TORCH if name == "Adam"]
    both = [keras(rate, goal, seed, X, y) for rate in rates] if with_keras else [(np.nan,) * 2]
    found["adam"]["keras"] = both[0][0], min(took for took, _ in both)
    found["adam"]["keras, compiled"] = both[0][1], min(rest for _, rest in both)
    return found


def keras_row(table: Table, rounds: list[dict[str, Any]]) -> str:
    """A table's goal and medians: tinynn, Keras by its defaults, with its best rate, compiled."""
    goal, ours = (median(each[name] for each in rounds) for name in ("plain", "ours"))
    default, best = (median(each["keras"][place] for each in rounds) for place in (0, 1))
    compiled = median(each["keras, compiled"][1] for each in rounds)
    cells = (f"{goal:.2g}", f"{ours:.3f}", *(f"{n:.2f}" for n in (default, best, compiled)))
    return f"| {table.name} | {' | '.join(cells)} |"


def small_network(seeds: int) -> None:
    """The 1-16-1 network on 200 points without noise: error and time of each way."""
    x = np.linspace(-3.0, 3.0, 200).reshape(-1, 1)
    y, net = np.sin(2.0 * x), Sequential(Linear(16), tanh, Linear(1))
    print("\n| 1-16-1, 200 points | mean squared error | s |\n|---|---|---|")
    ways = {
        "LevenbergMarquardt, 500 steps": ("levenberg_marquardt", 500, "auto"),
        "NewtonCG, 500 steps": ("newton_cg", 500, "auto"),
        "Adam, 20,000 steps of all rows": ("adam", 20_000, None),
    }
    for name, (optimizer, epochs, rows) in ways.items():
        errors, times = [], []
        for seed in range(seeds):
            start = process_time()
            model = tinynn.fit(
                net, x, y, optimizer=optimizer, epochs=epochs, batch_size=rows, seed=seed,
                progress=False,
            )  # fmt: skip
            times.append(process_time() - start)
            errors.append(error(y, model.predict(x)))
        show(name, errors, times)
    errors, times = [], []
    for seed in range(seeds):
        model = MLPRegressor(
            hidden_layer_sizes=(16,), activation="tanh", solver="lbfgs", max_iter=15_000,
            alpha=0.0, tol=1e-9, random_state=seed,
        )  # fmt: skip
        start = process_time()
        model.fit(x, y[:, 0])
        times.append(process_time() - start)
        errors.append(error(y, model.predict(x)))
    show("scikit-learn, L-BFGS, tol=1e-9", errors, times)


def show(name: str, errors: list[float], times: list[float]) -> None:
    spread = f"{median(errors):.1e} ({min(errors):.1e}-{max(errors):.1e})"
    print(f"| {name} | {spread} | {median(times):.2f} |")


@click.command()
@click.option("--seeds", default=3)
@click.option("--only", default="", help="Tables by name, with commas; 1-16-1 too.")
@click.option("--keras", "with_keras", is_flag=True, help="Keras too, where it is installed.")
def main(seeds: int, only: str, with_keras: bool) -> None:
    """Print the tables of benchmarks/README.md."""
    warnings.simplefilter("ignore")
    print(machine())
    chosen = [t for t in TABLES if not only or t.name in only.split(",")]
    print(
        "\n| table | rows | auto | Adam: goal | s | tinynn, s | ratio | PyTorch, s, best | "
        "Keras, s, best | held out | L-BFGS: goal | s | tinynn, s | ratio | held out |\n"
        + "|---" * 15 + "|"
    )  # fmt: skip
    round_of(TABLES[0], 99, with_keras)  # pays for imports
    round_of(TABLES[2], 99)
    medians: dict[str, list[float]] = {"adam": [], "lbfgs": []}
    of_keras = []
    for table in chosen:
        rounds = [round_of(table, seed, with_keras) for seed in range(seeds)]
        cells = [table.name, str(rounds[0]["adam"]["rows"]), rounds[0]["adam"]["optimizer"]]
        for solver in medians:
            each = [r[solver] for r in rounds]
            ratios = sorted(r["theirs"] / r["ours"] for r in each)
            medians[solver].append(median(ratios))
            middle = {k: median(r[k] for r in each) for k in ("goal", "theirs", "ours")}
            held = [median(r["held"][side] for r in each) for side in (0, 1)]
            spread = f"{median(ratios):.2g} ({ratios[0]:.2g}-{ratios[-1]:.2g})"
            cells += [f"{middle['goal']:.2g}", f"{middle['theirs']:.3f}", f"{middle['ours']:.3f}"]
            cells += [spread]
            for name in ("torch", "keras") if solver == "adam" else ():
                took = [median(r[name][i] for r in each) for i in (0, 1)]
                cells += ["-" if np.isnan(took[0]) else f"{took[0]:.2f}, {took[1]:.2f}"]
            cells += [f"{held[0]:.2g}, {held[1]:.2g}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        of_keras.append(keras_row(table, [r["adam"] for r in rounds]))
    if with_keras:
        print("\n| table | goal | tinynn, s | Keras, s | its best rate | best after an epoch |")
        print("\n".join(["|---" * 6 + "|", *of_keras]))
    for solver, ratios in medians.items():
        ahead, near = sum(r > 1.0 for r in ratios), sum(r >= 1 / 1.2 for r in ratios)
        print(f"\n{solver}: ahead on {ahead}, behind by 1.2 at most on {near} of {len(ratios)}.")
    if not only or "1-16-1" in only.split(","):
        small_network(seeds)


if __name__ == "__main__":
    main()
