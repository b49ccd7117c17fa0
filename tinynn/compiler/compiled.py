"""compile: a function that runs as a recorded program."""

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import update_wrapper
from typing import Any
from weakref import WeakSet

from backends import is_array
from backends.lowering import none_followed
from backends.user_code import warn
from tinynn import tree
from tinynn.compiler.finite import check_outputs
from tinynn.compiler.liveness import Stage, root
from tinynn.compiler.pipelines import applied, decompositions, for_library
from tinynn.compiler.program import Program
from tinynn.compiler.renderer import rendered, source_of
from tinynn.compiler.statements import Blank, Call, Def, Return, Section, Statement, Tuple
from tinynn.compiler.subprograms import ProgramEmitter
from tinynn.trace import Traced, backend_of, plain
from tinynn.trace.core import BASE
from tinynn.transforms.base import name_of
from tinynn.transforms.graph import Constant, Graph, Input, Node
from tinynn.transforms.record import RecordingError, check_shapes, recorded

_MANY = 32
_made: "WeakSet[Specialization]" = WeakSet()
Places = tuple[int, ...]


class Compiled:
    """A function that is recorded once for every signature, and runs as a program after that.

    Parameters
    ----------
    f, check_finite, donate_argnums
        As `compile` has them.
    """

    def __init__(
        self, f: Callable[..., Any], check_finite: bool = False, donate_argnums: Places = ()
    ) -> None:
        update_wrapper(self, f)
        count = type(donate_argnums) in (tuple, list)
        if not count or not all(type(i) is int and i >= 0 for i in donate_argnums):
            raise TypeError(
                "compile: expected donate_argnums to be a tuple of positions, integers from 0, got "
                f"{donate_argnums!r}. To fix it: (0,) donates the first argument"
            )
        self._f, self._check, self._donated = f, check_finite, donate_argnums
        self._programs: dict[Any, Specialization] = {}
        self._newest: Specialization | None = None

    @property
    def source(self) -> str | None:
        """The newest program, as Python; None before the first call."""
        return self._newest.source if self._newest else None

    @property
    def graph(self) -> Graph | None:
        """The calls of the newest program, as a graph; None before the first call."""
        return self._newest.graph if self._newest else None

    def __call__(self, *args: Any) -> Any:
        newest = self._newest  # another thread may record another one meanwhile
        if newest is not None:
            given = newest.leaves_like(args)
            if given is not None:
                return newest(given)
        leaves, structure = tree.flatten(args)
        for leaf in leaves:
            if type(leaf) is Traced and leaf.trace is not BASE:
                return self._f(*args)  # whoever transforms it sees what the function does
        followed = _is_followed(leaves)
        key = (structure, *map(_signature, leaves))
        program = self._program(followed, key, args)
        if not followed and program.outside and _is_followed(program.outside):
            program = self._program(True, key, args)
        return program(leaves)

    def quick(self, args: Any) -> Callable[[Any], Any] | None:
        """The newest program for who always gives arrays and floats such as these, or None.

        It takes them as they are, looks at none of them, and gives the results one after another.
        None for other arguments, and for a program that has to look.
        """
        newest = self._newest
        leaves = None if newest is None or newest.has_wrapped else newest.leaves_like(args)
        if newest is None or leaves is None or len(newest.places) != len(args):
            return None
        return newest.run

    def _program(self, followed: bool, key: Any, args: Any) -> "Specialization":
        known = self._programs.get((followed, key))
        return known if known and known.current else self._recorded(followed, key, args)

    def _recorded(self, followed: bool, key: Any, args: Any) -> "Specialization":
        made = Specialization(self._f, args, self._check, followed, self._donated)
        self._newest = self._programs[followed, key] = made
        if len(self._programs) == _MANY:
            warn(
                f"compile of {self.__name__}: recorded {_MANY} times, for as many shapes, dtypes "  # type: ignore[attr-defined]
                "or non-array values. Give numbers that change as floats or 0-d arrays",
            )
        return made

    def __repr__(self) -> str:
        return f"<compiled {getattr(self._f, '__name__', self._f)!s}>"


class Specialization:
    """The program for one signature.

    Parameters
    ----------
    f, args
        What is recorded: a function, and arguments like those to come.
    check
        Look at every value.
    followed
        The library follows the arrays, for derivatives of its own.
    donate_argnums
        As `compile` has it.
    first : callable, optional
        What is done to the recorded graph before the passes.

    Attributes
    ----------
    outside
        The arrays from outside that it reads.
    alone
        The program, for who lets no other thread call it meanwhile: of the inputs, its outputs.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Any,
        check: bool,
        followed: bool,
        donate_argnums: Places = (),
        first: Callable[[Graph], Graph] | None = None,
    ) -> None:
        if donate_argnums and max(donate_argnums) >= len(args):
            raise ValueError(
                f"compile of {getattr(f, '__name__', 'a function')}: expected donate_argnums below "
                f"the number of arguments, {len(args)}, got {tuple(donate_argnums)}. To fix it: "
                "count from 0"
            )
        leaves, self._given = tree.flatten(args)
        self._quick = not followed
        # Of an input type, dtype, shape and device, of everything else the signature alone.
        self._kinds = [
            (_kind_of(a), a.dtype, a.shape, getattr(a, "device", None))
            if hasattr(a := plain(leaf), "dtype")
            else (None, _signature(leaf))
            for leaf in leaves
        ]
        arrays = [leaf for leaf in leaves if hasattr(leaf, "dtype")]
        if not arrays:
            name = getattr(f, "__name__", "a function")
            raise RecordingError(
                f"compile of {name}: expected an array among the arguments, got none: it is their "
                "library and device where the program runs"
            )
        self.backend = backend_of(*arrays)
        # What the library follows it must see in calls that are its own to derive.
        self.lowering = lowering = None if followed else self.backend.lowering
        self._followed = (
            lowering.followed if lowering and lowering.followed != none_followed else None
        )
        with self.backend.scope(), lowering.recording() if lowering else nullcontext():
            graph = recorded(f, args, decompositions(lowering), supposed=False)
        check_shapes(name_of("compile", f), graph)
        graph = first(graph) if first else graph
        self.structure = graph.structure
        self._wrapped = [constant for constant in graph.constants if constant.wrappers]
        roots = list(map(root, graph.outputs))
        self.graph = applied(graph, for_library(lowering))
        self._shared = _shared_anew(roots, self.graph.outputs)
        self.places = [i for i, leaf in enumerate(leaves) if _is_input(leaf)]
        owners = [number for number, arg in enumerate(args) for _ in tree.leaves(arg)]
        donated = () if check or followed else donate_argnums
        self._donated = tuple(
            i
            for i, at in enumerate(self.places)
            if owners[at] in donated and type(leaves[at]) is not float
        )
        with self.backend.scope():  # what is computed once is computed here
            self._lines = rendered(self._statements())
            own = source_of(self._lines)
            self.source = self._emitter.sources() + own
            self._program = Program(graph.name, own, lowering.library if lowering else None)
            bound = self._emitter.names.bound
            run = self._checked if check else self._program(bound)["program"]
        # What is not decomposed into other calls may warn as it would without us.
        if lowering and lowering.quiet & graph.decompositions:
            run = lowering.context()(run)
        # A compiler would carry out an effect once, while it compiles.
        compiled = run if check or self.graph.effects else self._compiled(run)
        self.alone = self.backend.scoped(compiled)
        self.outside = [constant.value for constant in self.graph.constants]
        self._lock = threading.Lock()  # the buffers belong to one call at a time
        _made.add(self)

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers that it keeps between calls."""
        outside = set(map(id, self.outside))
        bound = self._emitter.names.bound.values()
        return sum(a.nbytes for a in bound if is_array(a) and id(a) not in outside)

    @property
    def has_wrapped(self) -> bool:
        """True if arrays from outside may be others by the next call."""
        return bool(self._wrapped)

    @property
    def current(self) -> bool:
        """True if the arrays from outside are the ones that were recorded."""
        return not self._wrapped or all(constant.current for constant in self._wrapped)

    def _compiled(self, run: Callable[..., Any]) -> Callable[..., Any]:
        return self.backend.compile(run, donated=self._donated)

    def _statements(self) -> list[Statement]:
        donated = {id(self.graph.inputs[i]) for i in self._donated}
        self._emitter = emitter = ProgramEmitter(
            self.graph, self.backend, [], {}, donated=donated, lowering=self.lowering
        )
        given = [emitter.operand(i) for i in self.graph.inputs]
        outs = [
            self._output(o, copy) for o, copy in zip(self.graph.outputs, self._shared, strict=True)
        ]
        once = emitter.statements[Stage.ONCE]
        body: list[Statement] = [Section(emitter.statements[Stage.STEP]), Return(Tuple(outs))]
        return [*once, *([Blank()] if once else []), Def("program", given, body)]

    def _output(self, value: Any, shared: bool) -> Any:
        """An array that is made once and kept, or shared only by our doing, is given as a copy."""
        output = self._emitter.operand(value)
        made = isinstance(value, Node) and self._emitter.liveness.when.get(id(value)) is Stage.ONCE
        if not made and not shared:
            return output
        return Call(self._emitter.names.bind("copied", self._copied), output)

    def _copied(self, array: Any) -> Any:
        return self.backend.xp.asarray(array, copy=True)

    def __call__(self, leaves: list[Any]) -> Any:
        return self.structure.unflatten(self.run([plain(leaves[place]) for place in self.places]))

    def leaves_like(self, args: Any) -> list[Any] | None:
        """The leaves of arguments of the signature that it was made for; None for any others."""
        leaves = tree.leaves_as(args, self._given) if self._quick else None
        if leaves is None or not self.current:
            return None
        for leaf, kind in zip(leaves, self._kinds, strict=True):
            if kind[0] is None:
                if _signature(leaf) != kind[1]:
                    return None
            elif (
                _KINDS.get(type(leaf)) is not kind[0]
                or leaf.dtype != kind[1]
                or leaf.shape != kind[2]
                or getattr(leaf, "device", None) != kind[3]
            ):
                return None
        return None if self.is_followed(leaves) else leaves

    def is_followed(self, given: list[Any]) -> bool:
        """True if the library follows these inputs, or what the program reads from outside."""
        return self._followed is not None and self._followed([*given, *self.outside])

    def run(self, given: list[Any]) -> Any:
        """The leaves of the result, from those of the arguments that are inputs."""
        if self._donated:
            given = self._given_away(given)
        with self._lock:
            try:
                return self.alone(*given)
            except Exception as error:
                self.explain(error)
                raise

    def _given_away(self, given: list[Any]) -> list[Any]:
        """The inputs, of which no other shares the memory of one that is donated."""
        backend, held = self.backend, dict[int, list[Any]]()
        arrays = [array for array in (*given, *self.outside) if type(array) is not float]
        for array in arrays:
            held.setdefault(backend.memory_of(array), []).append(array)
        if len(held) < len(arrays):
            self._require_apart([given[i] for i in self._donated], held)
        given = list(given)
        for i in self._donated:  # what cannot be written to, such as a number, is copied
            given[i] = backend.writable(given[i])
        return given

    def _require_apart(self, donated: list[Any], held: dict[int, list[Any]]) -> None:
        for array in donated:
            near = held[self.backend.memory_of(array)]
            if sum(self.backend.shares_memory(array, other) for other in near) > 1:
                raise ValueError(
                    f"compile of {self.graph.name}: expected donated arrays whose memory no other "
                    "array has that is read, got one that is given twice, or from outside as well, "
                    "or of which a view is: what is written into one would be in both. To fix it: "
                    "give a copy of it"
                )

    def _checked(self, *given: Any) -> tuple[Any, ...]:
        """The program's results, call by call; FloatingPointError if they are not finite."""
        outs = check_outputs(self.graph, given)
        pairs = zip(outs, self._shared, strict=True)
        return tuple(self._copied(out) if shared else out for out, shared in pairs)

    def explain(self, error: Exception) -> None:
        """Name the layer and the line of the user's code that made the failing call."""
        self._program.explain(error, self._lines)


def _shared_anew(before: list[Any], outputs: list[Any]) -> list[bool]:
    """Which outputs the passes have made the memory of an argument, or of an output before them.

    Parameters
    ----------
    before
        The values whose memory they were when the function was recorded.
    outputs
        What they are now.
    """
    after, shared = list(map(root, outputs)), []
    for place, mine in enumerate(after):
        given = isinstance(mine, Input | Constant) and before[place] is not mine
        twins = [i for i in range(place) if after[i] is mine]
        anew = given or any(before[i] is not before[place] for i in twins)
        shared.append(anew and isinstance(mine, Node) and mine.dtype is not None)
    return shared


# For each kind of arrays, a function that is true of those that are followed.
_FOLLOWERS: dict[type, Callable[[Any], bool]] = {}


def _is_followed(leaves: Any) -> bool:
    """True if the arrays' library follows what is done with them, for derivatives of its own."""
    values = [plain(leaf) for leaf in leaves]
    array = next((value for value in values if hasattr(value, "dtype")), None)
    if array is None:
        return False
    follows = _FOLLOWERS.get(type(array))
    if follows is None:
        lowering = backend_of(array).lowering
        follows = _FOLLOWERS[type(array)] = lowering.followed if lowering else none_followed
    return follows(values)


# The type of arrays that a type counts as: numbers of a library may stand for arrays of no axes.
_KINDS: dict[type, type] = {}


def _kind_of(array: Any) -> type:
    kind = type(array)
    if kind not in _KINDS:
        _KINDS[kind] = backend_of(array).kind_of(kind)
    return _KINDS[kind]


def _is_input(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") or type(leaf) is float


def _signature(leaf: Any) -> Any:
    """The key of an argument: of arrays and floats not the values, of everything else those."""
    leaf = plain(leaf)
    if hasattr(leaf, "dtype"):
        return _kind_of(leaf), leaf.dtype, leaf.shape, str(getattr(leaf, "device", ""))
    if type(leaf) is float:
        return float
    try:
        hash(leaf)
    except TypeError:
        raise RecordingError(
            f"compile: expected arrays, numbers and other values that can be compared among the "
            f"arguments, got {type(leaf).__name__}, which has no hash; give it as a tree"
        ) from None
    return type(leaf), leaf


def compile(
    f: Callable[..., Any] | None = None,
    *,
    check_finite: bool = False,
    donate_argnums: tuple[int, ...] = (),
) -> Any:
    """Compile `f`: it is recorded on its first call, and runs as a program after that.

    Parameters
    ----------
    f
        A function of trees that returns a tree of arrays, written with functions of the standard,
        which always does the same operations. It may take gradients.
    check_finite
        Look at every value, and if NaN or infinity is in the result, name the layer and line where
        it began. This is slow.
    donate_argnums
        The positions of arguments that are not used any more once the call is made, as JAX has it:
        results may take the memory of their arrays, what those hold is undefined afterwards, and
        JAX deletes them. A cache is so written in place. Nothing else that is read may be in the
        memory of such an array; what cannot be written to, such as a number, is copied.

    Returns
    -------
    callable
        A function with the attributes `source` and `graph`. It records `f` anew for arguments of
        another structure, shape, dtype or device, and for other values of non-array, non-float
        arguments. Arrays that `f` takes from outside are read in every call, as they are then (the
        arrays that were there when it was recorded, whatever their names are given to later); what
        it computes from them alone is computed when it is recorded. Inside a transformation `f`
        itself is called; what the library follows for derivatives of its own, it goes on to.

    Raises
    ------
    RecordingError
        `f` reads the value of an array, to branch on it or to make a number of it, or the shape of
        a result follows from values, as that of `x[x > 0]` does.
    FloatingPointError
        With `check_finite`.
    TypeError, ValueError
        `donate_argnums` are no positions of arguments, or what is donated is in the memory of
        something else that is read.

    Examples
    --------
    >>> import numpy as np
    >>> f = compile(lambda x: x * 2 + x * 2)
    >>> f(np.asarray([1.0, 2.0]))
    array([4., 8.])
    >>> print(f.source)
    def program(x):
        v0 = multiply(x, 4)                               # (2,)
        return (v0,)
    <BLANKLINE>
    """
    if f is None:
        return lambda g: Compiled(g, check_finite, donate_argnums)
    return Compiled(f, check_finite, donate_argnums)


def _unlock() -> None:
    """Give a forked process locks that are free: who held one was a thread of its parent's."""
    for each in _made:
        each._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
