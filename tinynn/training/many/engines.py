"""The engines of `fit_many`: how epochs of all networks are carried out.

Each has `run(epoch, count, alive)`, which carries out so many epochs of the networks of these
numbers and gives the losses of their steps, (networks, epochs, steps); `carry()`, a copy of what
all carry on; and `load(carry)`. What becomes of the networks that are not alive is not said, but
that, of many, they take no time.
"""

from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any

from backends import Backend, BackendUnavailable
from backends.lowering import Taken
from backends.user_code import warn
from tinynn import tree
from tinynn.compiler import compile
from tinynn.compiler.engines import kind_of
from tinynn.compiler.networks import NetworkLoops
from tinynn.compiler.pipelines import applied, portable
from tinynn.compiler.reuse import Programs
from tinynn.compiler.rewrite import CannotEmit
from tinynn.compiler.train_loop import Scanned
from tinynn.compiler.worth import worth_compiling
from tinynn.data import Samples
from tinynn.training.engines.compiled import check_needs, checked, slots_of
from tinynn.training.many.networks import Networks
from tinynn.training.many.one_by_one import OneByOne
from tinynn.training.step import Carry
from tinynn.training.varied import NumberedStep, with_numbers
from tinynn.transforms import vmap

ENGINES = ("auto", "loops", "jit", "calls", "eager")
# Bytes of samples that are put in order for one call: of a network, and of all.
_NEAR, _AHEAD = 2**20, 2**26


def select(networks: Networks, engine: str, epochs: int) -> Any:
    """The engine of that name, ready to run; another, with one warning, if it must be."""
    if engine not in ENGINES:
        known = ", ".join(map(repr, ENGINES))
        raise ValueError(f"fit_many: engine: expected one of {known}, got {engine!r}")
    if engine == "eager":
        return OneByOne(networks)
    if engine == "jit":
        kind_of(engine, networks.backend)  # an error where there is no such compiler
    if engine == "auto" and _searches(networks.first.step.optimizer):
        return OneByOne(networks)
    try:
        together = Together(networks)
        if engine == "loops" or (engine == "auto" and together.suits_loops(epochs)):
            try:
                return Loops(together)
            except (BackendUnavailable, CannotEmit) as error:
                if engine == "loops":
                    _warn(f'the networks are trained with engine="calls" instead: {error}')
        jit = engine == "jit" or (engine == "auto" and networks.backend.repeat is not None)
        return (Jit if jit else Calls)(together)
    except Exception as error:  # what is wrong in itself shows where it runs as it is written
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return OneByOne(
            networks, f"the networks are trained one by one, without compiling: {error}{where}"
        )


class Together:
    """The step of all networks, and where they start."""

    def __init__(self, networks: Networks) -> None:
        self.networks, self.backend = networks, networks.backend
        self.batches, step = networks.first.batches, networks.first.step
        check_needs(step.optimizer)
        self.step: Any = NumberedStep(step) if networks.numbers else step
        params, state = networks.start()
        numbers = {
            path: self.backend.asarray(list(each), dtype=networks.dtype)
            for path, each in networks.numbers.items()
        }

        def init(params: Any, numbers: Any) -> Any:
            return with_numbers(step.optimizer, "optimizer", numbers).init(params)

        kept = vmap(init)(params, numbers)
        self.start = Carry(params, state, (kept, numbers) if numbers else kept)

    def programs(self, size: int, again: bool = True) -> Programs:
        """The programs of the recorded step of one network, for batches of this size."""
        keys = self.networks.keys(0)
        key = None if keys is None else keys[0, 0, ...]
        batch = self.batches.dataset.between(0, size)
        return checked(self.step, self.backend, self.one(self.start), batch, key, again=again)

    def one(self, carry: Carry) -> Carry:
        """The carry of network 0."""
        return tree.map(lambda a: a[0, ...], carry)

    def suits_loops(self, epochs: int) -> bool:
        """True if there is a compiler of loops, and they pay for being compiled."""
        with suppress(BackendUnavailable):
            native = self.backend.native()
            if native is None or native.threads > 1:  # a block of threads a network
                return native is not None
            graph = applied(self.programs(self.batches.size, again=False).graph, portable())
            steps = epochs * self.networks.per_epoch
            return worth_compiling(graph, steps, len(self.networks))
        return False


class _Stacked:
    """The base of engines whose networks' carries are one tree of arrays (networks, ...)."""

    networks: Networks
    backend: Backend

    def network(self, carry: Carry, k: int) -> Carry:
        """The carry of network k."""
        return tree.map(lambda a: a[k, ...], carry)

    def parts(self, carry: Carry) -> tuple[Any, Any]:
        """The parameters and states of all networks: (networks, ...) each."""
        return carry.params, carry.state

    def converged(self, carry: Carry) -> list[bool] | None:
        """Whether each optimizer says that nothing more is to be gained; None if it never does."""
        kept = carry.optimizer_state[0] if self.networks.numbers else carry.optimizer_state
        told = kept.get("converged") if isinstance(kept, dict) else None
        return None if told is None else [bool(flag) for flag in self.backend.to_host(told)]

    def merged(self, carry: Carry, other: Carry, chosen: Sequence[int]) -> Carry:
        """The carry with that of the `other` for the networks of these numbers."""
        xp = self.backend.xp
        flags = [k in set(chosen) for k in range(len(self.networks))]
        mask = self.backend.asarray(flags, dtype="bool")

        def pick(mine: Any, theirs: Any) -> Any:
            return xp.where(xp.reshape(mask, (-1, *[1] * (mine.ndim - 1))), theirs, mine)

        return tree.map(pick, carry, other)


class Loops(_Stacked):
    """Explicit loops, spread over threads or thread blocks."""

    name = "loops"

    def __init__(self, together: Together) -> None:
        self.networks, self.backend = together.networks, together.backend
        self.batches, self.structure = together.batches, tree.flatten(together.start)[1]
        native = self.backend.native()
        if native is None:
            raise CannotEmit(f"{self.backend} has no compiler of loops")
        self.native = native
        computed = together.networks.first.step.compute_dtype
        if computed not in (None, *self.backend.dtypes()):
            raise CannotEmit(f"machine code has no {computed}")
        self.loop = self._program(together, self.batches.size)
        self.last = None
        if self.batches.rest:
            self.last = self._program(together, self.batches.rest, again=False)
            self.last.share(self.loop)
        self.load(together.start)

    def _program(self, together: Together, size: int, again: bool = True) -> NetworkLoops:
        programs, one = together.programs(size, again), together.one(together.start)
        return programs.program(
            NetworkLoops, len(tree.leaves(one)), self.backend, slots_of(one),
            len(together.networks),
        )  # fmt: skip

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        self.loop.load(tree.leaves(carry))

    def carry(self) -> Carry:
        """A copy of what all networks carry on."""
        return self.structure.unflatten(self.loop.values())

    def run(self, epoch: int, count: int, alive: Sequence[int]) -> Any:
        """Carry out so many epochs: the losses of their steps, (networks, epochs, steps)."""
        batches, xp = self.batches, self.backend.xp
        many, fixed = len(self.networks), not (batches.shuffle or batches.draws)
        if fixed and not self.last:  # all epochs are alike
            steps = self.networks.per_epoch
            data = self._data(epoch, 1, 0, steps)
            losses = self.loop.run_each(alive, steps, data, count)
            return xp.reshape(losses, (many, count, -1))
        row = 8 * sum(prod(a.shape[1:]) for a in tree.leaves(self.networks.whole))
        epoch_ = row * batches.dataset.size
        alone = self.last or not batches.shuffle
        most = 1 if alone else max(1, min(_NEAR // epoch_, _AHEAD // (many * epoch_)))
        parts = [
            self._some(epoch + place, min(most, count - place), alive)
            for place in range(0, count, most)
        ]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)

    def _some(self, epoch: int, count: int, alive: Sequence[int]) -> Any:
        batches, xp = self.batches, self.backend.xp
        full = batches.dataset.size // batches.size
        data = self._data(epoch, count, 0, full)
        losses = self.loop.run_each(alive, count * full, data)
        losses = xp.reshape(losses, (len(self.networks), count, full))
        if self.last:
            last = self.last.run_each(alive, 1, self._data(epoch, 1, full, full + 1))
            losses = xp.concat((losses, last[:, None, :]), axis=2)
        return losses

    def _data(self, epoch: int, count: int, first: int, stop: int) -> list[tuple[Any, bool]]:
        """The samples and the keys of these steps of some epochs, one after another."""
        size, networks = self.batches.size, self.networks
        orders = [networks.orders(epoch + i, self.native.permutations) for i in range(count)]
        rows = [o if o is None else o[..., first * size : stop * size] for o in orders]
        if rows[0] is None:  # all networks go through the samples in their order
            whole = networks.whole.between(first * size, min(stop * size, networks.whole.size))
            data = [(self._flat(a), False) for a in tree.leaves(whole)]
        else:
            joined = self._joined(rows, -1)
            data = [(Taken(self._flat(a), joined), True) for a in tree.leaves(networks.whole)]
        keys = [networks.keys(epoch + i) for i in range(count)]
        if keys[0] is not None:
            data.append((self._joined([each[:, first:stop, :] for each in keys], 1), True))
        return data

    def _joined(self, arrays: list[Any], axis: int) -> Any:
        """Arrays one behind another, in memory that lies in one piece."""
        return self._flat(
            arrays[0] if len(arrays) == 1 else self.backend.xp.concat(arrays, axis=axis)
        )

    def _flat(self, array: Any) -> Any:
        """The array in memory that lies in one piece."""
        return self.backend.xp.reshape(self.native.flat(array), array.shape)


class _Batched(_Stacked):
    """The base of engines in which each call acts on all networks: the step under `vmap`."""

    def __init__(self, together: Together) -> None:
        self.networks, self.backend = together.networks, together.backend
        self.batches = together.batches
        shared = self.networks.orders(0) is None
        self.step = vmap(together.step, (0, None if shared else 0, 0))
        self.rows = list(range(len(self.networks)))  # those that calls act on
        self.some = self.networks  # the same, as networks of their own

    def run(self, epoch: int, count: int, alive: Sequence[int]) -> Any:
        """Carry out so many epochs: the losses of their steps, (networks, epochs, steps)."""
        xp = self.backend.xp
        self._narrow(alive)
        if len(self.rows) == len(self.networks):
            return xp.stack([self._epoch(epoch + place) for place in range(count)], axis=1)
        whole = self.carry()
        self._load(self._taken(whole, self.rows))
        losses = xp.stack([self._epoch(epoch + place) for place in range(count)], axis=1)
        places = list(range(len(self.networks)))
        for place, k in enumerate(self.rows):
            places[k] = len(self.networks) + place
        both = tree.map(lambda a, b: xp.concat([a, b]), whole, self._carries())
        self.load(self._taken(both, places))
        blank = [0] * len(self.networks)
        for place, k in enumerate(self.rows):
            blank[k] = place
        return self._taken(losses, blank)

    def _narrow(self, alive: Sequence[int]) -> None:
        """Let the calls act on the living alone, once they are two of three or fewer.

        Not each time that one ends, since programs are of one number of networks.
        """
        rows = self.rows if set(alive) <= set(self.rows) else list(range(len(self.networks)))
        rows = list(alive) if 3 * len(alive) <= 2 * len(rows) else rows
        if rows != self.rows:
            self.rows, self.some = rows, self.networks.some(rows)
            self._renew()

    def _taken(self, parts: Any, rows: Sequence[int]) -> Any:
        """These entries of all arrays, along their first axis."""
        places = self.backend.asarray(list(rows), dtype="int32")
        return tree.map(lambda a: self.backend.xp.take(a, places, axis=0), parts)

    def _renew(self) -> None:
        """Get ready for another number of networks."""

    def _load(self, carry: Carry) -> None:
        """Let the networks that calls act on continue from this carry."""
        raise NotImplementedError

    def _carries(self) -> Carry:
        """A copy of the carry of these."""
        raise NotImplementedError

    def carry(self) -> Carry:
        """A copy of what all networks carry on."""
        raise NotImplementedError

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        raise NotImplementedError

    def _epoch(self, epoch: int) -> Any:
        """Carry out an epoch: the losses of its steps, (networks, steps)."""
        raise NotImplementedError

    def _samples(self, orders: Any, first: int, stop: int) -> Samples:
        """The samples at these places of an epoch: (networks, samples, ...), or (samples, ...)."""
        xp, whole = self.backend.xp, self.networks.whole
        stop = min(stop, self.batches.dataset.size)
        if orders is None:
            return whole.between(first, stop)
        rows = orders[:, first:stop]
        flat = xp.reshape(rows, (-1,))

        def taken(array: Any) -> Any:
            return xp.reshape(xp.take(array, flat, axis=0), (*rows.shape, *array.shape[1:]))

        return tree.map(taken, whole)


class Calls(_Batched):
    """The library's own calls, each acting on all networks at once."""

    name = "calls"

    def __init__(self, together: Together) -> None:
        super().__init__(together)
        self._carry = together.start
        self.program = compile(self.step)
        # Compiled now, so that what cannot be is an error now.
        self.program(self._carry, *self._batch(self.networks.orders(0), self.networks.keys(0), 0))

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        self._carry = carry

    _load = load

    def carry(self) -> Carry:
        """The carries of all networks."""
        return self._carry

    _carries = carry

    def _epoch(self, epoch: int) -> Any:
        orders, keys = self.some.orders(epoch), self.some.keys(epoch)
        losses = []
        for place in range(self.networks.per_epoch):
            self._carry, loss = self.program(self._carry, *self._batch(orders, keys, place))
            losses.append(loss)
        return self.backend.xp.stack(losses, axis=1)

    def _batch(self, orders: Any, keys: Any, place: int) -> tuple[Samples, Any]:
        """The samples of a step, and its keys."""
        size = self.batches.size
        samples = self._samples(orders, place * size, (place + 1) * size)
        return samples, None if keys is None else keys[:, place, ...]


class Jit(_Batched):
    """The library's own compiler, which has the loop over the steps of an epoch."""

    name = "jit"

    def __init__(self, together: Together) -> None:
        super().__init__(together)
        self.structure = tree.flatten(together.start)[1]
        self.full = self.batches.dataset.size // self.batches.size
        self.loop, self.last = self._programs(together.start)
        self._all: Carry | None = None
        self._load(together.start)

    def _programs(self, start: Carry, again: bool = True) -> tuple[Scanned, Scanned | None]:
        """The loops over whole batches, and over the smaller last one, for so many networks."""
        loop, last = self._program(start, self.batches.size, again), None
        if self.batches.rest:
            last = self._program(start, self.batches.rest, again=False)
            last.share(loop)
        return loop, last

    def _program(self, start: Carry, size: int, again: bool = True) -> Scanned:
        samples = self._samples(self.some.orders(0), 0, size)
        keys = self.some.keys(0)
        key = None if keys is None else keys[:, 0, ...]
        programs = checked(self.step, self.backend, start, samples, key, again=again)
        return programs.program(Scanned, len(tree.leaves(start)), self.backend, [])

    def _renew(self) -> None:
        whole = self.carry()
        self.loop, self.last = self._programs(self._taken(whole, self.rows), again=False)
        self.load(whole)

    def load(self, carry: Carry) -> None:
        """Continue from this carry."""
        if len(self.rows) < len(self.networks):
            self._all = carry  # which is loaded where it is carried on
        else:
            self._all = None
            self._load(carry)

    def carry(self) -> Carry:
        """A copy of what all networks carry on."""
        return self._carries() if self._all is None else self._all

    def _load(self, carry: Carry) -> None:
        self.loop.load(tree.leaves(carry))
        if self.last:
            self.last.bind()

    def _carries(self) -> Carry:
        return self.structure.unflatten(self.loop.values())

    def _epoch(self, epoch: int) -> Any:
        xp, size = self.backend.xp, self.batches.size
        orders, keys = self.some.orders(epoch), self.some.keys(epoch)
        losses = [self._steps(self.loop, orders, keys, 0, self.full, size)]
        if self.last:
            rest = self.batches.rest
            losses.append(self._steps(self.last, orders, keys, self.full, 1, rest))
        return xp.matrix_transpose(xp.concat(losses) if self.last else losses[0])

    def _steps(
        self, loop: Scanned, orders: Any, keys: Any, first: int, count: int, size: Any
    ) -> Any:
        """The losses of steps of batches of this size: (steps, networks)."""
        xp, start = self.backend.xp, first * self.batches.size
        samples = self._samples(orders, start, start + count * size)
        axis = 0 if orders is None else 1

        def cut(array: Any) -> Any:  # the steps in front
            shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
            return xp.moveaxis(xp.reshape(array, shape), axis, 0)

        streams = [cut(a) for a in tree.leaves(samples)]
        if keys is not None:
            streams.append(xp.moveaxis(keys[:, first : first + count, :], 1, 0))
        return loop.run(tuple(streams))


def _searches(optimizer: Any) -> bool:
    """Whether steps are loops of conjugate gradients, of which all wait for the slowest network."""
    by_products = getattr(optimizer, "solver", "cg") == "cg"
    return "objective" in getattr(optimizer, "needs", ()) and by_products


def _warn(what: str) -> None:
    warn(f"fit_many: {what}")
