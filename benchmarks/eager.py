"""What a gradient costs without compiling: tinynn on NumPy beside NumPy by hand and its peers.

    python benchmarks/eager.py [--rounds 15]

All in one process and on one thread, in turn: a round gives every competitor the same number of
steps, so whatever else the machine does falls on all alike. Times are processor time, in which
waiting for a busy machine does not count. The ratio is the median, over the rounds, of its time to
that of NumPy by hand in the same round. What is not installed is left out.
"""

import argparse
import gc
import importlib
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import numpy as np  # noqa: E402

import tinynn  # noqa: E402
from tinynn.functional import sigmoid, tanh  # noqa: E402
from tinynn.trace import namespace  # noqa: E402

Weights = list[Any]
Step = Callable[[Weights], tuple[Weights, Any]]  # weights -> new weights, the loss before


def descend(weights: Weights, gradients: Any) -> Weights:
    return [w - g for w, g in zip(weights, gradients, strict=True)]


class Xor:
    """3-4-1, sigmoid: half the sum of squared errors, gradient and update (lr 1), float64."""

    title, steps, updates = "XOR network 3-4-1: gradient and update", 100, True

    def __init__(self) -> None:
        draw = np.random.RandomState(42)
        draw.random_sample((3, 1))  # the stream's first numbers went to another network
        self.start = [2 * draw.random_sample(shape) - 1 for shape in ((3, 4), (4, 1))]
        self.x = np.asarray([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
        self.y = np.asarray([[0.0], [1], [1], [0]])

    def by_hand(self) -> Step:
        x, y, dot, exp = self.x, self.y, np.dot, np.exp

        def step(weights: Weights) -> tuple[Weights, Any]:
            a, b = weights
            hidden = 1 / (1 + exp(-dot(x, a)))
            out = 1 / (1 + exp(-dot(hidden, b)))
            error = y - out
            delta = error * out * (1 - out)
            back = dot(delta, b.T) * hidden * (1 - hidden)
            b += dot(hidden.T, delta)
            a += dot(x.T, back)
            return weights, None  # the loss itself is not needed

        return step

    def loss(self, xp: Any, sigmoid: Any, x: Any, y: Any, weights: Weights) -> Any:
        hidden = sigmoid(xp.matmul(x, weights[0]))
        out = sigmoid(xp.matmul(hidden, weights[1]))
        return 0.5 * ((y - out) ** 2).sum()

    def tinynn(self, x: Any, y: Any, weights: Weights) -> Any:
        xp = namespace(weights[0])
        hidden = sigmoid(xp.matmul(x, weights[0]))
        error = xp.subtract(y, sigmoid(xp.matmul(hidden, weights[1])))
        return 0.5 * xp.sum(error * error)


class Dense:
    """32-16-32-4, tanh, biases, batch 32: mean squared error and its gradients, float64."""

    title, steps, updates = "Network 32-16-32-4, batch 32: loss and gradients", 50, False

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.x, self.y = draw.normal(size=(32, 32)), draw.normal(size=(32, 4))
        self.start = []
        for wide, narrow in ((32, 16), (16, 32), (32, 4)):
            self.start += [draw.normal(size=(wide, narrow)) / wide**0.5, np.zeros(narrow)]

    def by_hand(self) -> Step:
        x, y, dot = self.x, self.y, np.dot

        def step(weights: Weights) -> tuple[Weights, Any]:
            a, i, b, j, c, k = weights
            first = np.tanh(dot(x, a) + i)
            second = np.tanh(dot(first, b) + j)
            error = dot(second, c) + k - y
            loss = (error * error).sum() / error.size
            d3 = error * (2 / error.size)
            d2 = dot(d3, c.T) * (1 - second * second)
            d1 = dot(d2, b.T) * (1 - first * first)
            gradients = [
                dot(x.T, d1), d1.sum(axis=0), dot(first.T, d2), d2.sum(axis=0),
                dot(second.T, d3), d3.sum(axis=0),
            ]  # fmt: skip
            return gradients, loss

        return step

    def loss(self, xp: Any, sigmoid: Any, x: Any, y: Any, weights: Weights) -> Any:
        a, i, b, j, c, k = weights
        first = xp.tanh(xp.matmul(x, a) + i)
        second = xp.tanh(xp.matmul(first, b) + j)
        return ((xp.matmul(second, c) + k - y) ** 2).mean()

    def tinynn(self, x: Any, y: Any, weights: Weights) -> Any:
        a, i, b, j, c, k = weights
        xp = namespace(a)
        first = tanh(xp.matmul(x, a) + i)
        second = tanh(xp.matmul(first, b) + j)
        error = xp.subtract(xp.matmul(second, c) + k, y)
        return xp.mean(error * error)


Task = Xor | Dense

# Every competitor: a task -> its weights, and the step on them. In `Dense`, which has no update,
# the "new weights" are the gradients, and each step starts from the first weights.


def numpy_by_hand(task: Task) -> tuple[Weights, Step]:
    return [w.copy() for w in task.start], task.by_hand()


def tinynn_on_numpy(task: Task) -> tuple[Weights, Step]:
    both = tinynn.value_and_grad(lambda weights: task.tinynn(task.x, task.y, weights))

    def step(weights: Weights) -> tuple[Weights, Any]:
        value, gradients = both(weights)
        return descend(weights, gradients) if task.updates else gradients, value

    return task.start, step


def pytorch(task: Task) -> tuple[Weights, Step]:
    import torch

    torch.set_num_threads(1)
    x, y = torch.tensor(task.x), torch.tensor(task.y)

    def step(weights: Weights) -> tuple[Weights, Any]:
        value = task.loss(torch, torch.sigmoid, x, y, weights)
        value.backward()
        gradients = [w.grad for w in weights]
        if task.updates:
            with torch.no_grad():
                for w in weights:
                    w -= w.grad
        for w in weights:
            w.grad = None
        return weights if task.updates else gradients, value

    return [torch.tensor(w, requires_grad=True) for w in task.start], step


def autograd(task: Task) -> tuple[Weights, Step]:
    import autograd
    import autograd.numpy as anp

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + anp.exp(-x))

    both = autograd.value_and_grad(lambda ws: task.loss(anp, sigmoid, task.x, task.y, ws))

    def step(weights: Weights) -> tuple[Weights, Any]:
        value, gradients = both(weights)
        return descend(weights, gradients) if task.updates else gradients, value

    return task.start, step


def mygrad(task: Task) -> tuple[Weights, Step]:
    import mygrad
    from mygrad.nnet.activations import sigmoid

    mygrad.turn_memory_guarding_off()  # its faster form

    def step(weights: Weights) -> tuple[Weights, Any]:
        value = task.loss(mygrad, sigmoid, task.x, task.y, weights)
        value.backward()
        gradients = [w.grad for w in weights]
        if not task.updates:
            return gradients, value
        data = [w.data for w in weights]
        return [mygrad.tensor(w) for w in descend(data, gradients)], value

    return [mygrad.tensor(w) for w in task.start], step


COMPETITORS = {
    "NumPy by hand": ("numpy", numpy_by_hand),
    "tinynn on NumPy": ("numpy", tinynn_on_numpy),
    "PyTorch": ("torch", pytorch),
    "autograd (HIPS)": ("autograd", autograd),
    "MyGrad": ("mygrad", mygrad),
}


class Run:
    """One competitor at one task: its weights as they are now, and its times."""

    def __init__(self, task: Task, make: Callable[[Task], tuple[Weights, Step]]) -> None:
        self.task = task
        self.weights, self.step = make(task)
        self.times: list[float] = []

    def go(self) -> None:
        weights, step, updates = self.weights, self.step, self.task.updates
        gc.collect()
        gc.disable()
        start = process_time()
        for _ in range(self.task.steps):
            result, _ = step(weights)
            if updates:
                weights = result
        self.times.append((process_time() - start) / self.task.steps * 1e6)
        gc.enable()
        self.weights = weights

    def outcome(self) -> tuple[float, ...]:
        """What all must agree on: the loss, and for gradients their norm."""
        weights, task = host(self.weights), self.task
        loss = task.loss(np, lambda x: 1 / (1 + np.exp(-x)), task.x, task.y, weights)
        if task.updates:
            return (float(loss),)
        gradients, own = self.step(self.weights)
        norm = sum(float((g**2).sum()) for g in host(gradients)) ** 0.5
        return float(loss), float(np.asarray(host([own])[0])), norm


def host(arrays: Weights) -> Weights:
    opened = [getattr(a, "data", a) if hasattr(a, "backward") else a for a in arrays]
    return [np.asarray(a.detach()) if hasattr(a, "detach") else np.asarray(a) for a in opened]


def measure(task: Task, rounds: int) -> list[str]:
    """One table, as lines of Markdown."""
    runs, missing = {}, []
    for name, (module, make) in COMPETITORS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(name)
            continue
        runs[name] = Run(task, make)
    for run in runs.values():
        run.go()  # what is slow the first time is not measured
        run.times.clear()
    for _ in range(rounds):
        for run in runs.values():
            run.go()
    hand = runs["NumPy by hand"]
    expected = hand.outcome()
    lines = [
        f"### {task.title}",
        "| | us a step, median | least | times NumPy by hand | loss |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        outcome = run.outcome()
        np.testing.assert_allclose(outcome, expected, rtol=1e-8, err_msg=name)
        ratio = median(mine / his for mine, his in zip(run.times, hand.times, strict=True))
        lines.append(
            f"| {name} | {median(run.times):.1f} | {min(run.times):.1f} | {ratio:.2f} "
            f"| {outcome[0]:.8g} |"
        )
    lines += [f"\nNot installed, so not measured: {', '.join(missing)}."] if missing else []
    return lines


def machine(modules: Iterable[str] = ()) -> str:
    """The day, the machine and the versions: of these modules, or of all competitors'."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        named = [row for row in info.read_text().splitlines() if row.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    versions = []
    for module in modules or dict(COMPETITORS.values()):
        with suppress(PackageNotFoundError):
            versions.append(f"{module} {version(module)}")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{date.today()}, {model}, {os.cpu_count()} cores{load}, one thread, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    print(f"{machine()}; {rounds} rounds.")
    for task in (Xor(), Dense()):
        print("\n" + "\n".join(measure(task, rounds)))


if __name__ == "__main__":
    main()
