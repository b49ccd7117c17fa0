"""Lowering: how a compiled program calls one library, as an expert would write it there.

A library without one runs compiled programs in the standard's own calls.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from backends.expressions import OUT, Arg, Call, Expression, Kwarg

#: How a call is written: a template, or a function that gives it of the arguments (numbers, and
#: what has a shape and a dtype) and the kwargs; None where only the standard's own call will do.
Template = Expression | Callable[[Any, Any], Expression | None]


@dataclass(frozen=True)
class OutTemplate:
    """The template by which a function writes its result into an array that is there.

    Attributes
    ----------
    call : Template
        The call, into `OUT`.
    inplace : Expression, optional
        The call where the result takes the place of the first argument, if shorter.
    broadcast_scalars : bool
        A number among the arguments becomes an array of the result's shape.
    keep_scalars : bool
        A number among the arguments stays one.
    may_alias : bool
        The result may take the place of an argument of its shape and dtype, in an elementwise
        function.
    order : callable, optional
        How the library would have the result in memory: of the arguments and the kwargs, the axes
        from the outermost inwards, or None for the order of the axes.
    """

    call: Template
    inplace: Expression | None = None
    broadcast_scalars: bool = False
    keep_scalars: bool = False
    may_alias: bool = True
    order: Callable[[Any, Any], tuple[int, ...] | None] | None = None


def form_of(template: Template, args: Any, kwargs: Any) -> Expression | None:
    """The expression of a template for these arguments; None where it has none."""
    return template if isinstance(template, Expression) else template(args, kwargs)


def concat(args: Any, kwargs: Any) -> Expression | None:
    """The template of `concat(*arrays, axis=0, out=None)`: arrays of one dtype along an axis."""
    if kwargs.get("axis", 0) is None or any(a.dtype != args[0].dtype for a in args):
        return None
    return Call("concat", *map(Arg, range(len(args))), axis=Kwarg("axis", 0), out=OUT)


def entries(array: Any) -> Sequence[Any]:
    """The entries of an array along its first axis, each an array in its memory."""
    return [array[i, ...] for i in range(array.shape[0])]


def none_followed(values: Iterable[Any]) -> bool:
    """No array is followed where the library has no derivatives of its own."""
    return False


@dataclass(frozen=True)
class Lowering:
    """The library's abilities beyond the standard's calls.

    Attributes:
        library: the module in which the functions that templates name are found.
        empty: a new array, `empty(shape, dtype=, device=)`, with whatever values.
        into: OutTemplate for functions of the standard; "copy" for copying an array into another.
        calls: Template for calls that make an array of their own, or a view, in another way than
            the standard.
        decompositions: functions written as others, `definition(xp, *arrays, **kwargs)`.
        context: a context manager in which loops run. No array that is made inside is given away.
        quiet: of the functions decomposed, those whose definitions make the library warn where
            the result is right. Programs with them are decorated with `context`.
        followed: whether the library itself follows what is done with one of these values, for
            derivatives of its own: it would not be allowed to write results into buffers.
        entries: the entries of an array along its first axis, each an array in its memory.
        batches: the same to be read alone, for which they may be copies; None: `entries`.
        together: whether what follows from a batch alone may be computed for several batches at
            once, of which this is an array: it has to be the same bits for any number of them.
        few_axes: whether calls cost less on arrays of fewer axes.
        slow_where: whether `where` takes longer than to multiply by a comparison as floats.
        gives_numbers: whether `x[0, 0]` is a number, and not the memory of the array.
        piece: how many elements of a long vector to go through at a time, where several calls go
            through it one after the other; 0 for all.
        keeps: the functions, by name, that can give with their result what their pullback would
            compute again.
        kernel: a function of arrays, then of those that take the results, that carries out the text
            of what becomes of one element, in CUDA C: `kernel(inputs, outputs, text, helpers)`,
            where inputs and outputs are "float32 name" and more; None: one call after the other.
    """

    library: ModuleType
    empty: Callable[..., Any]
    into: Mapping[str, OutTemplate]
    calls: Mapping[str, Template] = field(default_factory=dict)
    decompositions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    context: Callable[[], Any] = nullcontext
    quiet: frozenset[str] = frozenset()
    followed: Callable[[Iterable[Any]], bool] = none_followed
    entries: Callable[[Any], Sequence[Any]] = entries
    batches: Callable[[Any], Sequence[Any]] | None = None
    together: Callable[[Any], bool] = lambda array: True
    few_axes: bool = False
    slow_where: bool = False
    gives_numbers: bool = False
    piece: int = 0
    keeps: frozenset[str] = frozenset()
    kernel: Callable[..., Any] | None = None

    def recording(self) -> Any:
        """A context in which functions are decomposed, without the warnings that follow."""
        return self.context() if self.quiet else nullcontext()


class Taken(NamedTuple):
    """Data of many networks in a kernel of loops: of number k, the rows `rows[k]` of `array`.

    Attributes:
        array: (samples, ...), of all networks.
        rows: (networks, count) integers, in range.
    """

    array: Any
    rows: Any


class KernelError(RuntimeError):
    """A compiler of loops that fails on a kernel."""


@dataclass(frozen=True)
class LoopCompiler:
    """A compiler of explicit loops for a library's arrays.

    Attributes:
        build: from the source of `run(steps, times, *pointers)`, and the dtypes of what is pointed
            to, to the function `run(steps, times, *arrays)`. No two arrays may overlap. Where
            threads share a kernel, it is given `threads=`, how many, and `shared_bytes=`, too. The
            function has a method `each(networks, apart, steps, times, *arrays)`, which carries it
            out for each of the networks of these numbers: the memory of number k starts k times
            `apart` elements, a number for each array, behind that of number 0; what is `Taken` is
            gathered first. In "cuda" the source is then of a `Function` whose `networks` is True.
            KernelError where the compiler fails.
        flat: the elements of an array as a vector that lies in one piece, its own memory if it can.
        products: the dtypes, by name, of whose matrices the source may leave the product to the
            library's BLAS: product_float32(m, n, k, *a, *b, *out) for (m, k) by (k, n). A matrix
            is its array, its first element's place, whether it lies transposed, and the number of
            elements from one row of memory to the next; `out` does not lie transposed. For each
            the number of multiplications from which on that is faster than loops.
        bind: from a function that `build` gave and all its arguments to a function of none that
            carries it out on them, sooner; TypeError for arrays that do not fit. None where that
            would gain nothing.
        language: of the source. "llvm" is LLVM's, and may call functions of C's library by names
            with their dtype, such as exp_float32; for floats and integers pow_, floor_divide_ and
            remainder_; for integers left_shift_ and right_shift_; and the products above, where
            each matrix has all four numbers. "cuda" is CUDA C for one thread block.
        threads: how many threads may share a kernel, a power of two from 32 on; 1 for a kernel
            that one thread carries out.
        shared_bytes: the memory that the threads of a kernel may share; of one thread, what may
            lie on its stack.
        automatic: whether engine="auto" takes loops for one network, where measurements on hardware
            show that they win; if not, only engine="loops" does.
        permutations: from keys of `backends.random`, (keys, 2), and n to what its `permutation`
            gives for each, (keys, n), where that can be had faster; else None.
    """

    build: Callable[..., Callable[..., None]]
    flat: Callable[[Any], Any]
    products: Mapping[str, int] = field(default_factory=dict)
    language: str = "python"
    threads: int = 1
    shared_bytes: int = 0
    automatic: bool = True
    permutations: Callable[[Any, int], Any] | None = None
    bind: Callable[..., Callable[[], Any]] | None = None
