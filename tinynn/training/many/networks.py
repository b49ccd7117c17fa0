"""Networks: all that many networks are trained with, and what each of them has of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import backends
from backends import Backend, random
from tinynn import tree
from tinynn.config import Each
from tinynn.data import Samples, Subset
from tinynn.training.batches import DRAW, SHUFFLE, Batches, Epoch
from tinynn.training.problem import Problem
from tinynn.training.step import TrainingStep
from tinynn.training.varied import of_network, step_with
from tinynn.transforms import vmap

_FEW = 8  # networks, for which drawing one after another costs less than for all at once


@dataclass(frozen=True)
class Networks:
    """Networks of one architecture, and the data of each.

    Attributes
    ----------
    problems
        That of each network, or of the first alone where they differ in seeds and numbers only.
    seeds
        Theirs.
    numbers
        The numbers that vary, by where they are found.
    given
        The parameters and states that they start from, (networks, ...) each, or None.
    """

    problems: Sequence[Problem]
    seeds: Sequence[int]
    numbers: Mapping[str, Each]
    given: tuple[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    def some(self, rows: Sequence[int]) -> "Networks":
        """The networks of these numbers."""
        problems = [self.problems[k] for k in rows] if len(self.problems) > 1 else self.problems
        numbers = {path: Each(each[k] for k in rows) for path, each in self.numbers.items()}
        return Networks(problems, [self.seeds[k] for k in rows], numbers)

    @property
    def first(self) -> Problem:
        """The problem of network 0."""
        return self.problems[0]

    @property
    def backend(self) -> Backend:
        """The backend of the data."""
        return self.first.backend

    @property
    def per_epoch(self) -> int:
        """The number of steps in an epoch."""
        batches = self.first.batches
        return -(-batches.dataset.size // batches.size)

    def problem(self, k: int) -> Problem:
        """That of network k, but for its start and its batches' order."""
        return self.problems[k if len(self.problems) > 1 else 0]

    @cached_property
    def steps(self) -> list[TrainingStep]:
        """The training step of each network."""
        step = self.first.step
        return [step_with(step, of_network(self.numbers, k)) for k in range(len(self))]

    @cached_property
    def batches(self) -> list[Batches]:
        """The batches of each network."""
        return [
            replace(self.problem(k).batches, key=key)
            for k, key in enumerate(random.key(seed, self.backend) for seed in self.seeds)
        ]

    # Where they start.

    @cached_property
    def dtype(self) -> Any:
        """The dtype of the parameters."""
        return tree.leaves(self.first.start.params)[0].dtype

    def start(self) -> tuple[Any, Any]:
        """The parameters and states of all networks: (networks, ...) each."""
        if self.given is None:
            return self._drawn()
        params, state = self.given
        drawn = self._drawn() if params is None or state is None else self.given
        return (drawn[0] if params is None else params, drawn[1] if state is None else state)

    def _drawn(self) -> tuple[Any, Any]:
        net, inputs = self.first.step.net, self.first.batches.dataset.between(0, 1).inputs
        xp = self.backend.xp

        def init(key: Any) -> Any:
            return net.init(key, *inputs, dtype=self.dtype)

        if len(self) <= _FEW:
            return _each(init, self.seeds, xp)
        try:
            made = vmap(init)(xp.stack([random.key(seed, self.backend) for seed in self.seeds]))
            if not _is_equal(tree.map(lambda a: a[0, ...], made), init(self.seeds[0]), xp):
                raise ValueError("an initializer draws otherwise for many networks")
        except Exception:  # an initializer of the user's own; what is wrong in it shows here
            made = _each(init, self.seeds, xp)
        return made

    # Their data.

    @cached_property
    def whole(self) -> Samples:
        """The samples that all networks' batches are taken from, by `orders`."""
        dataset: Any = self.first.batches.dataset
        dataset = dataset.dataset if isinstance(dataset, Subset) else dataset
        samples: Samples = dataset.between(0, dataset.size)
        return samples

    @cached_property
    def own(self) -> Any:
        """The numbers of the samples that each network trains on, (networks, samples), or None.

        (1, samples) where they are the same for all.
        """
        datasets: list[Any] = [each.batches.dataset for each in self.problems]
        if not isinstance(datasets[0], Subset):
            return None
        return self.backend.xp.stack([each.indices for each in datasets])

    @cached_property
    def _keys(self) -> tuple[Any, Any]:
        """The keys of the networks' orders and of their draws: (networks, 2)."""
        keys = self.backend.xp.stack([each.key for each in self.batches])

        def both(key: Any) -> Any:
            return random.fold_in(key, SHUFFLE), random.fold_in(key, DRAW)

        return self._each_key(both, keys)

    def _each_key(self, draw: Callable[[Any], Any], keys: Any) -> Any:
        """The results of a function of one key for each; one after another where they are few."""
        if len(self) > _FEW:  # under vmap nothing goes through the library's compiler
            return vmap(draw)(keys)
        return _each(draw, [keys[k, :] for k in range(len(self))], self.backend.xp)

    def orders(self, epoch: int, permutations: Any = None) -> Any:
        """The numbers of the samples in the order of an epoch: (networks, samples).

        None where all networks go through them as they are. permutations: from keys (networks, 2)
        and n to `random.permutation` of each, where there is something faster.
        """
        batches, own, xp = self.first.batches, self.own, self.backend.xp
        if not batches.shuffle:
            return own if own is None else xp.broadcast_to(own, (len(self), own.shape[1]))
        size = batches.dataset.size
        if permutations is None:

            def order(key: Any) -> Any:
                return random.permutation(random.fold_in(key, epoch), size)

            orders = self._each_key(order, self._keys[0])
        else:
            keys = self._each_key(lambda key: random.fold_in(key, epoch), self._keys[0])
            orders = permutations(keys, size)
        return orders if own is None else self._chosen(own, orders)

    def _chosen(self, own: Any, orders: Any) -> Any:
        """Each network's samples in its order."""
        xp, (many, size) = self.backend.xp, own.shape
        if many == 1:
            return self._taken(own[0, :], orders)
        start = xp.arange(many, dtype=orders.dtype, device=self.backend.device)[:, None] * size
        return self._taken(xp.reshape(own, (-1,)), orders + start)

    def keys(self, epoch: int) -> Any:
        """A key for each step of an epoch, (networks, steps, 2); None if no layer draws."""
        batches = self.first.batches
        if not batches.draws:
            return None
        shape = (self.per_epoch, 2)

        def draw(key: Any) -> Any:
            return random.bits(random.fold_in(key, epoch), shape, 0)

        return self._each_key(draw, self._keys[1])

    def losses(self, losses: Any, epoch: int) -> Any:
        """The loss of each network in epochs from that of their steps: (networks, epochs, steps).

        epoch: the number of the first of them.
        """
        xp, batches, weight = self.backend.xp, self.first.batches, self.whole.sample_weight
        if weight is None or not batches.averages:
            return batches.loss_of_epoch(losses, Epoch(0, None))
        count, size, rest = losses.shape[1], batches.size, batches.rest
        means = []
        for place in range(count):
            rows = self.orders(epoch + place)
            shares = weight[None, ...] if rows is None else self._taken(weight, rows)
            full = shares[..., : shares.shape[-1] - (rest or 0)]
            sums = xp.sum(xp.reshape(full, (full.shape[0], -1, size)), axis=-1)
            if rest:
                last = xp.sum(shares[..., -rest:], axis=-1, keepdims=True)
                sums = xp.concat((sums, last), axis=-1)
            means.append(xp.sum(losses[:, place, :] * sums, axis=-1) / xp.sum(sums, axis=-1))
        return xp.stack(means, axis=1)

    def _taken(self, array: Any, rows: Any) -> Any:
        """The entries of a vector at these places, in their shape."""
        xp = self.backend.xp
        return xp.reshape(xp.take(array, xp.reshape(rows, (-1,))), rows.shape)


def check_given(problem: Problem, params: Any, state: Any, networks: int) -> tuple[Any, Any]:
    """Parameters and states to start from, if they are those of so many networks.

    Raises ValueError or MixedArrays.
    """
    start = problem.start
    for name, expected, got in (("params", start.params, params), ("state", start.state, state)):
        if got is None:
            continue
        shapes = [
            {path: (*lead, *getattr(leaf, "shape", ())) for path, leaf in tree.paths(each)}
            for each, lead in ((expected, (networks,)), (got, ()))
        ]
        if shapes[0] != shapes[1]:
            path = next(p for p in shapes[0] | shapes[1] if shapes[0].get(p) != shapes[1].get(p))
            raise ValueError(
                f"fit_many: {name}: {path!r}: expected the shape {shapes[0].get(path)}, with an "
                f"axis of the {networks} networks in front, got {shapes[1].get(path)}. To fix it: "
                f"give those of a stack of as many networks, stack.{name}; of one model, stack "
                "copies"
            )
        arrays = tree.leaves(got)
        if arrays and backends.of(*arrays) != problem.backend:
            raise backends.MixedArrays(
                f"fit_many: {name}: expected arrays on {problem.backend!r}, where X is, got arrays "
                f"on {backends.of(*arrays)!r}. To fix it: move them first"
            )
    dtype = tree.leaves(start.params)[0].dtype
    if params is not None:
        params = tree.map(lambda a: problem.backend.xp.astype(a, dtype), params)
    return params, state


def _each(f: Callable[[Any], Any], values: Sequence[Any], xp: Any) -> Any:
    """The results of a function for each value, stacked."""
    return tree.map(lambda *arrays: xp.stack(arrays), *map(f, values))


def _is_equal(left: Any, right: Any, xp: Any) -> bool:
    """True if two trees hold the same numbers."""
    pairs = list(zip(tree.leaves(left), tree.leaves(right), strict=True))
    same = [xp.all(a == b) for a, b in pairs if a.shape == b.shape and a.dtype == b.dtype]
    return len(same) == len(pairs) and bool(xp.all(xp.stack(same)))
