"""Inference: the outputs of a network for batches of any size, by programs of a few sizes."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import isfinite
from typing import Any, NamedTuple, cast

from backends import Backend
from backends.lowering import none_followed
from tinynn import tree
from tinynn.data import Dataset, host
from tinynn.data.adapter import to_scalar
from tinynn.layers import run
from tinynn.trace import Traced, namespace
from tinynn.training.identity import is_ours
from tinynn.training.ranges import Ranges, blank, kind_of
from tinynn.training.snapshot import Snapshot

#: Bytes of the widest value of a pass, for a processor's cache; larger batches are split.
PASS_BYTES = 2**21
#: Bytes of buffers that the programs of one `Inference` may keep between calls.
CAPACITY = 2**25
_LEAST_ROWS = 64  # of a pass: with fewer, products are slow
_PADDED = 32  # rows of a batch up to which it is padded whatever its size is
_PROGRAM_BYTES = 2**16  # that a program takes beside its buffers, to be on the safe side
_KINDS = 64  # of rows, and of arrays, to know; with more, all are forgotten


class Step(NamedTuple):
    """One pass: rows from `start` to `stop`, in a program for `size` of them."""

    start: int
    stop: int
    size: int


def steps(count: int, most: int, padded: bool = True) -> list[Step]:
    """The passes of a batch of `count` rows, `most` at a time.

    The rest after the full passes is padded to a power of two, or split where that would add more
    than a third: so batches of all sizes are passes of a few.

    >>> [step.size for step in steps(300, 1024)]
    [256, 32, 16]
    """
    found, start = [], 0
    while start < count:
        left = count - start
        size = most if left >= most else 1 << (left - 1).bit_length()
        if left < most and size > _PADDED and 4 * left <= 3 * size:
            size //= 2
        size = min(size, most) if padded else min(left, most)
        stop = min(start + size, count)
        found.append(Step(start, stop, size))
        start = stop
    return found


@dataclass(eq=False)
class _Rows:
    """The way that batches of one kind of rows pass through the network.

    Attributes:
        most: rows of a pass at most; None: a batch passes whole.
        mixing: where rows of a batch meet, if they do, or if nobody can tell.
        free: the programs by their sizes, but for those that run.
        checks: that of whole numbers among the inputs, or None if there is none, once it is known.
    """

    most: int | None
    mixing: Any
    free: dict[int, list["_Program"]] = field(default_factory=dict)
    checks: list[Callable[[list[Any]], None] | None] = field(default_factory=list)

    def taken(self, arrays: list[Any]) -> "_Rows":
        """The same for other arrays of the network, with the programs, which it takes away."""
        free: dict[int, list[_Program]] = {}
        for size, programs in list(self.free.items()):
            mine = free[size] = []
            with suppress(IndexError):  # another thread may take the last
                while True:
                    mine.append(programs.pop().of(arrays))
        return _Rows(self.most, self.mixing, free)


def _no_more(error: Exception) -> None:
    """Where nothing can be said of an error."""


class _Program:
    """A program of the network for one size, with its parameters.

    Attributes:
        run: of the arrays of the inputs, gives the output, and a number that is finite only if the
            inputs are.
        nbytes: that it keeps, about.
        explain: adds to an error of `run` where in the network it came from.
    """

    __slots__ = ("_whole", "explain", "nbytes", "run")

    def __init__(
        self,
        whole: Callable[..., Any],
        arrays: list[Any],
        nbytes: int,
        explain: Callable[[Exception], None] = _no_more,
    ) -> None:
        self._whole, self.nbytes, self.explain = whole, nbytes, explain
        self.run = partial(whole, *arrays)

    def of(self, arrays: list[Any]) -> "_Program":
        """The same with other arrays as parameters and state; it has the buffers from now on."""
        return _Program(self._whole, arrays, self.nbytes, self.explain)

    def __call__(self, *inputs: Any) -> tuple[Any, Any]:
        """`run`, whose errors say where in the network they came from."""
        try:
            y, number = self.run(*inputs)
        except Exception as error:
            self.explain(error)
            raise
        return y, number


_NO_PROGRAMS: list[_Program] = []


@dataclass(eq=False, slots=True)
class _Ready:
    """The facts about arrays of one type, shape and dtype, which were checked before.

    Attributes:
        type, shape, dtype, device: what the arrays are, and where; None on the host.
        rows, steps: how they pass.
        exact: the size of the program that takes them as they are; 0 if there is none.
    """

    type: Any
    shape: Any
    dtype: Any
    device: Any
    rows: _Rows
    steps: list[Step]
    exact: int


class Inference(Snapshot):
    """The outputs of a network with the parameters that it has now, for batches of any size.

    A network that gives each row what it would give it alone gets its batches in passes of a few
    sizes, padded by rows that are there and left out of the result, so that there are few
    programs. Any other gets them whole.

    A program's buffers belong to one call at a time: a call takes a free program, or makes one. No
    lock is held, so a process may be forked at any time.

    Args:
        net, params, state: the network, as `run` takes it.
        backend: where the parameters are.
        pure: the network always does the same; None: if it is made of tinynn's own parts, down to
            the last function in a layer. Others run without programs.
        own: whether it is made of those; None: look at it.
    """

    def __init__(
        self,
        net: Any,
        params: Any,
        state: Any,
        backend: Backend,
        pure: bool | None = None,
        own: bool | None = None,
    ) -> None:
        super().__init__(net, params, state)
        self._pure = pure
        self.backend, lowering = backend, backend.lowering
        self._arrays = tree.leaves((params, state))
        self._ranges = Ranges(net, params, state, backend)
        self.own = is_ours(net) if own is None else own
        self._traced = any(map(self._is_traced, self._arrays))
        self.programs = not self._traced and (self.own if pure is None else pure)
        self.source: str | None = None  # of the first program
        self._elsewhere: Inference | None = None
        follows = lowering.followed if lowering else none_followed
        self._follows = None if follows is none_followed else follows
        self._number = None if backend == host() else partial(to_scalar, backend)
        self._kinds: dict[Any, _Rows] = {}
        self._ready: dict[Any, _Ready] = {}
        self._latest: _Ready | None = None

    def ready(self, X: Any) -> Any:
        """The output for an array of a kind that was checked before; None for any other.

        None as well where the program's number shows that X may not be finite.
        """
        found = self._latest
        try:
            if (
                found is None
                or type(X) is not found.type
                or X.shape != found.shape
                or (X.dtype is not found.dtype and X.dtype != found.dtype)  # `is` for its time
            ):
                found = self._latest = self._ready[type(X), X.dtype, X.shape]
            if found.device is not None and X.device != found.device:
                return None
        except (KeyError, AttributeError, TypeError):  # no such array, or none at all
            return None
        if self._follows is not None and self._is_followed([X]):
            return None
        if found.exact:
            free = found.rows.free.get(found.exact, _NO_PROGRAMS)
            try:
                program = free.pop()
            except IndexError:
                y, number = self._program(found.rows, found.exact, (X,))
            else:
                try:
                    y, number = program.run(X)  # not `program(X)`, for the sake of its time
                except Exception as error:
                    program.explain(error)
                    raise
                free.append(program)
        else:
            y, number = self._stepwise(found.rows, found.steps, partial(_between, X))
        return y if isfinite(self._number(number) if self._number else number) else None

    def on(self, backend: Backend) -> "Inference":
        """The same for rows on that backend, where a network without parameters follows them."""
        if backend == self.backend:
            return self
        if self._elsewhere is None or self._elsewhere.backend != backend:
            self._elsewhere = Inference(self.net, *self._given, backend, self._pure, self.own)
        return self._elsewhere

    def take_over(self, other: "Inference") -> None:
        """Take the programs that were made for other parameters, if these fit them as well."""
        mine, theirs = (_kind_of_parameters(each) for each in (self, other))
        if self.net is other.net and self.backend == other.backend and mine == theirs:
            self.source = other.source
            kinds = dict(other._kinds)  # copied at once: another thread may add to them
            self._kinds = {kind: rows.taken(self._arrays) for kind, rows in kinds.items()}
            same = {id(old): self._kinds[kind] for kind, old in kinds.items()}
            for kind, ready in dict(other._ready).items():
                if id(ready.rows) in same:
                    self._ready[kind] = replace(ready, rows=same[id(ready.rows)])

    def remember(self, x: Any) -> None:
        """Let `ready` answer for arrays like this one, which passed `outputs`."""
        if not self.programs or not self.backend.xp.isdtype(x.dtype, "real floating"):
            return
        rows = self._kinds.get(kind_of((x[:1, ...],)))
        if rows is None:
            return
        if len(self._ready) == _KINDS:
            self._ready.clear()
        plan = self._plan(rows, x.shape[0], None)
        exact = plan[0].size if plan[0].size == x.shape[0] else 0
        device = x.device if self._number else None
        facts = type(x), x.shape, x.dtype, device
        self._ready[type(x), x.dtype, x.shape] = _Ready(*facts, rows, plan, exact)

    def outputs(
        self, count: int, between: Callable[[int, int], Any], batch_size: int | None = None
    ) -> Any:
        """The output for `count` rows, of which `between(start, stop)` gives the inputs, a tuple.

        Raises:
            ValueError: `batch_size` is below 1, or would split a batch whose rows meet.
        """
        _check_size("predict", batch_size)
        first = between(0, 1)
        leaves = tree.leaves(first)
        if self._traced or any(map(self._is_traced, leaves)) or self._is_followed(leaves):
            rows = _Rows(None, None)  # a program's results would have no derivatives
            parts = (
                [Step(0, count, count)] if batch_size is None else steps(count, batch_size, False)
            )
            return self._stepwise(rows, parts, between, eager=True)[0]
        rows = self._rows(first, count, batch_size)
        _check_split("predict", rows, count, batch_size)
        plan = self._plan(rows, count, batch_size)
        if self.programs and not rows.checks:
            rows.checks = [self._ranges.check_of(first)]
        for check in filter(None, rows.checks):
            for start, stop, _ in plan:
                check(tree.leaves(between(start, stop)))
        return self._stepwise(rows, plan, between, eager=not self.programs)[0]

    def parts(self, dataset: Dataset, batch_size: int | None, most: int) -> list[Step]:
        """The passes of a dataset, `batch_size` samples at a time, or if that is None at most.

        Raises ValueError as `outputs`.
        """
        _check_size("evaluate", batch_size)
        count = dataset.size
        if count <= (batch_size or most):
            return [Step(0, count, count)]
        rows = self._rows(dataset.between(0, 1).inputs, count, batch_size or most)
        _check_split("evaluate", rows, count, batch_size)
        whole = rows.mixing is not None and batch_size is None
        return steps(count, count if whole else batch_size or most, padded=False)

    def _is_traced(self, array: Any) -> bool:
        return isinstance(array, Traced) or not self.backend.is_concrete(array)

    def _is_followed(self, leaves: list[Any]) -> bool:
        return self._follows is not None and self._follows([*leaves, *self._arrays])

    # What kind of rows they are.

    def _rows(self, first: Any, count: int, batch_size: int | None) -> _Rows:
        """The way that rows like the first one pass, found out once for each kind if it matters."""
        if not self.programs and count <= (batch_size or _LEAST_ROWS):
            return _Rows(None, None)
        kind = kind_of(first)
        rows = self._kinds.get(kind)
        if rows is None:
            if len(self._kinds) == _KINDS:
                self._kinds.clear()
            rows = self._kinds[kind] = self._examined(first)
        return rows

    def _examined(self, first: Any) -> _Rows:
        from tinynn.compiler import rows as examining  # few networks are not tiny

        xp = self.backend.xp
        inputs = tree.map(lambda a: xp.concat([a, a], axis=0), first)
        params, state = self.params, self.state
        if self.own:  # it does the same on every library, and on the host in no time
            inputs, params, state = tree.map(
                lambda a: blank(a, self.backend), (inputs, params, state)
            )

        def output(*inputs: Any) -> Any:
            return run(self.net, params, state, *inputs).output

        home = host() if self.own else self.backend
        try:
            with home.scope(), home.quiet():
                graph = examining.rows_of(output, *inputs)
        except Exception as error:  # a function of the user's may do what nobody can follow
            if self.programs:
                raise
            return _Rows(None, examining.Mixing(str(error), certain=False))
        mixing = examining.mixing(graph)
        if mixing is not None:
            return _Rows(None, mixing)
        fitting = max(PASS_BYTES // max(examining.bytes_of_row(graph), 1), _LEAST_ROWS)
        return _Rows(1 << fitting.bit_length() - 1, None)

    def _plan(self, rows: _Rows, count: int, batch_size: int | None) -> list[Step]:
        most = batch_size or rows.most
        unknown = rows.mixing is not None and batch_size is None
        if most is None or unknown:
            return [Step(0, count, count)]
        return steps(count, most, padded=self.programs and rows.mixing is None)

    # Passes.

    def _stepwise(
        self,
        rows: _Rows,
        plan: list[Step],
        between: Callable[[int, int], Any],
        eager: bool = False,
    ) -> tuple[Any, Any]:
        """The output of all passes, and a number that is finite only if the inputs are."""
        xp, outputs, squares = self.backend.xp, [], []
        for start, stop, size in plan:
            inputs, more = between(start, stop), size - (stop - start)
            if eager:
                outputs.append(run(self.net, self.params, self.state, *inputs).output)
                continue
            if more:
                inputs = tree.map(lambda a, n=more: xp.concat([a, a[:n, ...]], axis=0), inputs)
            y, square = self._program(rows, size, inputs)
            if more:
                y = tree.map(lambda a, n=stop - start: a[:n, ...], y)
            outputs.append(y)
            squares.append(square)
        total = sum(squares[1:], squares[0]) if squares else 0.0
        return concatenated(outputs, xp), total

    def _program(self, rows: _Rows, size: int, inputs: Any) -> tuple[Any, Any]:
        """The output of one pass by the program for its size, and the number."""
        free = rows.free.get(size, _NO_PROGRAMS)
        try:
            program = free.pop()
        except IndexError:  # there is none, or all of them are running
            program = self._made(inputs)
            result = program(*tree.leaves(inputs))
            self._keep(rows, size, program)
            return result
        alone = len(inputs) == 1 and hasattr(inputs[0], "dtype")
        result = program(*(inputs if alone else tree.leaves(inputs)))
        free.append(program)
        return result

    def _keep(self, rows: _Rows, size: int, program: _Program) -> None:
        """Keep a new program for later, and no others if they are too many bytes together."""
        kinds = list(self._kinds.values())
        kept = [each for kind in kinds for free in list(kind.free.values()) for each in list(free)]
        if sum(each.nbytes for each in kept) + program.nbytes > CAPACITY:
            for kind in kinds:
                kind.free = {}
        if program.nbytes <= CAPACITY:
            rows.free.setdefault(size, []).append(program)

    def _made(self, inputs: Any) -> _Program:
        """A new program for inputs of these shapes."""
        if self.backend.lowering is None:
            compiled = (_compiled if self.own else _compiled.__wrapped__)(self.backend, self.net)
            structure = tree.flatten((self.params, self.state, inputs))[1]
            whole = lambda *arrays: compiled(*structure.unflatten(list(arrays)))  # noqa: E731
            return _Program(whole, self._arrays, _PROGRAM_BYTES)
        from tinynn.compiler.bound import bound
        from tinynn.compiler.compiled import Specialization
        from tinynn.compiler.finite import by_first_product

        f, given = _inference_of(self.net), (self.params, self.state, inputs)
        answer = bound(f, given[:2], inputs, self.backend) if self._pure else None
        if answer is not None:
            self.source = self.source or answer.source
            return _Program(answer, [], answer.nbytes + _PROGRAM_BYTES)
        call = Specialization(f, given, check=False, followed=False, first=by_first_product)
        self.source = self.source or call.source
        return _Program(_runner(call), self._arrays, call.nbytes + _PROGRAM_BYTES, call.explain)


def _inference_of(net: Any) -> Callable[..., Any]:
    """A function of the parameters, the state and the inputs: the output, and the number."""

    def inference(params: Any, state: Any, x: Any) -> Any:
        output = run(net, params, state, *x).output
        space = namespace(*tree.leaves(x))
        if len(x) > 1 or not hasattr(x[0], "dtype"):
            return output, 0.0
        if not space.isdtype(x[0].dtype, "real floating"):
            return output, 0.0
        return output, space.sum(x[0] * x[0])

    return inference


@lru_cache(16)
def _compiled(backend: Backend, net: Any) -> Callable[..., Any]:
    """By the library's own compiler, which keeps no arrays; equal networks are one function."""
    return backend.compile(_inference_of(net))


def _runner(call: Any) -> Callable[..., Any]:
    """A call of the program with the arrays of parameters, state and inputs."""
    # A program that was taken from those that are free is nobody else's.
    run, structure, places = call.alone, call.structure, call.places
    if structure.children == [tree.LEAF, tree.LEAF]:
        if places == list(range(len(places))):
            return cast(Callable[..., Any], run)
        return lambda *arrays: run(*[arrays[place] for place in places])
    return lambda *arrays: structure.unflatten(run(*[arrays[place] for place in places]))


def concatenated(parts: list[Any], xp: Any) -> Any:
    """Trees of arrays put together along their first axis."""
    if len(parts) == 1:
        return parts[0]
    return tree.map(lambda *arrays: xp.concat(arrays, axis=0), *parts)


def _between(x: Any, start: int, stop: int) -> tuple[Any, ...]:
    return (x[start:stop, ...],)


def _kind_of_parameters(of: Inference) -> Any:
    leaves, structure = tree.flatten((of.params, of.state))
    kinds = [(type(a), getattr(a, "shape", None), getattr(a, "dtype", a)) for a in leaves]
    return of.programs, structure, kinds


def _check_size(where: str, batch_size: Any) -> None:
    whole = hasattr(batch_size, "__index__") and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size >= 1):
        raise ValueError(
            f"{where}: batch_size: expected 1 or more, or None, got {batch_size}. To fix it: "
            "give how many samples to pass at once"
        )


def _check_split(where: str, rows: _Rows, count: int, batch_size: int | None) -> None:
    """ValueError if this size would split a batch whose rows meet."""
    if batch_size is not None and batch_size < count and rows.mixing and rows.mixing.certain:
        raise ValueError(
            f"{where}: batch_size={batch_size}: expected None, since the output of a row depends "
            f"on the others of its batch: {rows.mixing.where}. To fix it: leave batch_size out, or "
            "let the layer use what it kept in training"
        )
