"""Training convolutional networks: tinynn on NumPy beside NumPy by hand, PyTorch and JAX.

pip install torch jax
python benchmarks/convolutional.py [--rounds N] [--only LeNet] [--without JAX]

LeNet: images of 28 x 28, batch 64, SGD with momentum. Blocks: two residual-sized blocks of 3 x 3
convolutions, 32 channels, images of 32 x 32, batch 32. float32; the same start, the same batches in
order, and losses compared at the end.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

import tinynn
from backends import numpy_functions
from tinynn import functional, layers
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import SGD

RATE, MOMENTUM, CLASSES = 0.01, 0.9, 10
Params = list[Any]
#: A number of epochs -> the parameters after them: kernels (height, width, inputs, outputs).
Trained = Callable[[int], Params]


class Work(NamedTuple):
    """Images, and convolutions: (features, kernel, padding, pool or not), then dense layers."""

    title: str
    side: int
    channels: int
    batch: int
    batches: int
    convolutions: tuple[tuple[int, int, int, bool], ...]
    dense: tuple[int, ...]

    def data(self) -> tuple[Any, Any]:
        draw, n = np.random.default_rng(0), self.batch * self.batches
        shape = (n, self.side, self.side, self.channels)
        x = draw.random(shape, dtype="float32") - np.float32(0.5)
        teacher = draw.normal(size=(x[0].size, CLASSES)).astype("float32")
        return x, (x.reshape(n, -1) @ teacher).argmax(axis=1)

    def start(self) -> Params:
        draw, found = np.random.default_rng(1), []
        side, inputs = self.side, self.channels
        for features, kernel, padding, pool in self.convolutions:
            found.append((kernel, kernel, inputs, features))
            side, inputs = (side + 2 * padding - kernel + 1) // (2 if pool else 1), features
        inputs *= side * side
        for width in self.dense:
            found.append((inputs, width))
            inputs = width
        params = []
        for shape in found:
            weight = draw.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
            params += [weight.astype("float32"), np.zeros(shape[-1], "float32")]
        return params

    def loss(self, params: Params) -> float:
        x, y = self.data()
        outputs = forward(self, [np.asarray(p) for p in params], x[:256])[0]
        outputs = outputs - outputs.max(axis=1, keepdims=True)
        picked = outputs[np.arange(len(outputs)), y[:256]]
        return float(np.mean(np.log(np.exp(outputs).sum(axis=1)) - picked))


WORKS = (
    Work("LeNet", 28, 1, 64, 20, ((6, 5, 2, True), (16, 5, 0, True)), (120, 84, CLASSES)),
    Work("Blocks", 32, 32, 32, 2, ((32, 3, 1, False),) * 3 + ((32, 3, 1, True),), (CLASSES,)),
)


def forward(work: Work, params: Params, x: Any) -> tuple[Any, list[Any], list[Any]]:
    """By hand, im2col: the outputs, and what the way back needs."""
    kept, left = [], list(params)
    for features, kernel, padding, pool in work.convolutions:
        weight, bias, *left = left
        ends = (padding, padding)
        x = np.pad(x, ((0, 0), ends, ends, (0, 0)))
        windows = sliding_window_view(x, (kernel, kernel), axis=(1, 2))
        n, side = len(x), windows.shape[1]
        rows = windows.reshape(n * side * side, -1)  # (inputs, kernel, kernel) in a row
        flat = weight.transpose(2, 0, 1, 3).reshape(-1, features)
        y = np.maximum(rows @ flat + bias, 0).reshape(n, side, side, features)
        pooled = y
        if pool:
            y = y.reshape(n, side // 2, 2, side // 2, 2, features)
            pooled = y.max(axis=(2, 4))
        kept.append((x.shape, rows, flat, y, pooled))
        x = pooled
    hidden = [x.reshape(len(x), -1)]
    while left:
        weight, bias, *left = left
        hidden.append(hidden[-1] @ weight + bias)
        if left:
            np.maximum(hidden[-1], 0, out=hidden[-1])
    return hidden[-1], kept, hidden


def gradients(work: Work, params: Params, x: Any, target: Any) -> Params:
    outputs, kept, hidden = forward(work, params, x)
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    g = (powers / powers.sum(axis=1, keepdims=True) - target) / len(x)
    found: Params = []
    for i in range(len(hidden) - 2, -1, -1):
        weight = params[2 * (len(kept) + i)]
        found[:0] = [hidden[i].T @ g, g.sum(axis=0)]
        g = g @ weight.T
        if i:
            g = g * (hidden[i] > 0)
    g = g.reshape(kept[-1][-1].shape)
    for i in range(len(kept) - 1, -1, -1):
        shape, rows, flat, y, pooled = kept[i]
        features, kernel, padding, pool = work.convolutions[i]
        if pool:
            hit = (y == pooled[:, :, None, :, None]) & (y > 0)
            g = hit * g[:, :, None, :, None]
        else:
            g = g * (y > 0)
        g = g.reshape(-1, features)
        inputs = shape[-1]
        weight = (rows.T @ g).reshape(inputs, kernel, kernel, features).transpose(1, 2, 0, 3)
        found[:0] = [weight, g.sum(axis=0)]
        if i:
            side = shape[1] - kernel + 1
            spread = (g @ flat.T).reshape(len(x), side, side, inputs, kernel, kernel)
            g = np.zeros(shape, "float32")
            for a in range(kernel):
                for b in range(kernel):
                    g[:, a : a + side, b : b + side] += spread[..., a, b]
            g = g[:, padding : shape[1] - padding, padding : shape[2] - padding]
    return found


def by_hand(work: Work) -> Trained:
    x, y = work.data()
    targets = np.eye(CLASSES, dtype="float32")[y]

    def run(epochs: int) -> Params:
        params = work.start()
        velocity = [np.zeros_like(p) for p in params]
        for start in [*range(0, len(x), work.batch)] * epochs:
            part = slice(start, start + work.batch)
            for i, g in enumerate(gradients(work, params, x[part], targets[part])):
                velocity[i] = MOMENTUM * velocity[i] + g
                params[i] = params[i] - RATE * velocity[i]
        return params

    return run


def network(work: Work) -> tuple[Any, list[int]]:
    """Our network, and the places of the layers with parameters."""
    net: list[Any] = []
    places: list[int] = []
    for features, kernel, padding, pool in work.convolutions:
        places.append(len(net))
        net += [layers.Conv2d(features, kernel_size=kernel, padding=padding), functional.relu]
        net += [layers.MaxPool2d()] if pool else []
    net.append(layers.Flatten())
    for i, width in enumerate(work.dense, 1):
        places.append(len(net))
        net += [layers.Linear(width), *([functional.relu] if i < len(work.dense) else [])]
    return layers.Sequential(*net), places


def nested(work: Work, start: Params) -> Any:
    """Parameters as our network has them."""
    net, places = network(work)
    pairs = zip(places, start[::2], start[1::2], strict=True)
    params: Any = {str(place): {"weight": w, "bias": b} for place, w, b in pairs}
    return {str(i): params.get(str(i), {}) for i in range(len(net.layers))}


def ours(work: Work, engine: str = "calls", machine_code: bool = False) -> Trained:
    x, y = work.data()
    net, places = network(work)

    def run(epochs: int) -> Params:
        before, numpy_functions.has_llvm = numpy_functions.has_llvm, lambda: machine_code
        try:
            model = tinynn.fit(
                net, x, y, loss=SoftmaxCrossEntropy(), shuffle=False, engine=engine,
                optimizer=SGD(RATE, momentum=MOMENTUM), epochs=epochs, batch_size=work.batch,
                params=nested(work, work.start()), progress=False,
            )  # fmt: skip
        finally:
            numpy_functions.has_llvm = before
        found = [model.params[str(place)] for place in places]
        return [each[kind] for each in found for kind in ("weight", "bias")]

    return run


def of_jax(work: Work) -> Trained:
    """All steps of an epoch in one program."""
    x, y = work.data()
    x = jnp.asarray(x).reshape(work.batches, work.batch, *x.shape[1:])
    y = jnp.asarray(y).reshape(work.batches, work.batch)

    def loss(params: Params, x: Any, y: Any) -> Any:
        left = list(params)
        for _, _, padding, pool in work.convolutions:
            weight, bias, *left = left
            around, names = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), around, dimension_numbers=names)
            x = jax.nn.relu(x + bias)
            if pool:
                window = (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = x.reshape(len(x), -1)
        while left:
            weight, bias, *left = left
            x = x @ weight + bias
            x = jax.nn.relu(x) if left else x
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

    def step(carry: Any, batch: Any) -> Any:
        params, velocity = carry
        slopes = jax.grad(loss)(params, *batch)
        velocity = [MOMENTUM * v + g for v, g in zip(velocity, slopes, strict=True)]
        return ([p - RATE * v for p, v in zip(params, velocity, strict=True)], velocity), None

    epoch = jax.jit(lambda carry: jax.lax.scan(step, carry, (x, y))[0])

    def run(epochs: int) -> Params:
        params = [jnp.asarray(p) for p in work.start()]
        carry = (params, [jnp.zeros_like(p) for p in params])
        for _ in range(epochs):
            carry = epoch(carry)
        return jax.block_until_ready(carry)[0]

    return run


def torch_network(work: Work) -> Any:
    modules: list[Any] = []
    for (features, kernel, padding, pool), weight in zip(
        work.convolutions, work.start()[::2], strict=False
    ):
        modules += [torch.nn.Conv2d(weight.shape[2], features, kernel, padding=padding)]
        modules += [torch.nn.ReLU(), *([torch.nn.MaxPool2d(2)] if pool else [])]
    modules.append(torch.nn.Flatten())
    for i, weight in enumerate(work.start()[2 * len(work.convolutions) :: 2], 1):
        modules.append(torch.nn.Linear(*weight.shape))
        modules += [torch.nn.ReLU()] if i < len(work.dense) else []
    return torch.nn.Sequential(*modules)


def turned(work: Work, i: int, p: Any, back: bool) -> Any:
    """A parameter in the other's layout: channels first there, last here."""
    first, channels = 2 * len(work.convolutions), work.convolutions[-1][0]
    if i < first:
        return p if p.ndim == 1 else p.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
    if i == first:
        inputs, width = p.shape[::-1] if back else p.shape
        side = int((inputs // channels) ** 0.5)
        if back:
            p = p.T.reshape(channels, side, side, width).transpose(1, 2, 0, 3)
            return p.reshape(inputs, width)
        p = p.reshape(side, side, channels, width).transpose(2, 0, 1, 3)
        return p.reshape(inputs, width).T
    return p.T


def put_at_start(work: Work, net: Any) -> None:
    """Give a network of PyTorch the parameters that all begin with."""
    with torch.no_grad():
        for i, (mine, given) in enumerate(zip(net.parameters(), work.start(), strict=True)):
            mine.copy_(torch.from_numpy(np.ascontiguousarray(turned(work, i, given, False))))


def of_torch(work: Work) -> Trained:
    images, y = work.data()
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)
    net = torch_network(work)
    own = list(net.parameters())

    def run(epochs: int) -> Params:
        put_at_start(work, net)
        rule = torch.optim.SGD(own, lr=RATE, momentum=MOMENTUM, fused=True)
        for start in [*range(0, len(x), work.batch)] * epochs:
            part = slice(start, start + work.batch)
            rule.zero_grad()
            torch.nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            rule.step()
        return [turned(work, i, p.detach().numpy(), True) for i, p in enumerate(own)]

    return run


COMPETITORS: dict[str, Callable[[Work], Trained]] = {
    "NumPy by hand": by_hand,
    "tinynn, NumPy alone": ours,
    "tinynn, with llvmlite": partial(ours, machine_code=True),
    "tinynn, eager": partial(ours, engine="eager"),
    "PyTorch": of_torch,
    "JAX": of_jax,
}


def steps(work: Work, rounds: int, names: list[str]) -> None:
    """A training step of each: the difference of a long and a short run."""
    runs = {name: COMPETITORS[name](work) for name in names}
    losses = {name: work.loss(run(2)) for name, run in runs.items()}
    np.testing.assert_allclose([*losses.values()], losses["NumPy by hand"], rtol=2e-3)
    least: dict[Any, float] = {(name, epochs): np.inf for name in runs for epochs in (1, 4)}
    spent = dict(least)
    for _ in range(rounds):
        for name, run in runs.items():
            for epochs in (1, 4):
                start, used = perf_counter(), process_time()
                run(epochs)
                key = name, epochs
                least[key] = min(least[key], perf_counter() - start)
                spent[key] = min(spent[key], process_time() - used)
    count = 3 * work.batches
    for name in runs:
        time, used = [1e3 * (each[name, 4] - each[name, 1]) / count for each in (least, spent)]
        whole = spent["NumPy by hand", 4] - spent["NumPy by hand", 1]
        ratio = used * count / 1e3 / whole
        print(
            f"{work.title}: {name} {time:.2f} ms, {used:.2f} of processor, {ratio:.2f}; loss "
            f"{losses[name]:.4f}"
        )


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", help="The title of one work.")
@click.option("--without", type=click.Choice([*COMPETITORS]), multiple=True)
def main(rounds: int, only: str | None, without: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    print(f"one thread; the least of {rounds} rounds in turn")
    names = [name for name in COMPETITORS if name not in without]
    for work in WORKS:
        if only in (None, work.title):
            steps(work, rounds, names)


if __name__ == "__main__":
    main()
