"""A small function as one kernel on memory that is bound once: the shortest call that there is.

Where calls of a library cost more than their work, as for one row of a small network, what is left
of a call is two copies and a jump.
"""

from collections.abc import Callable
from typing import Any

from backends import BackendUnavailable
from backends.lowering import KernelError
from backends.user_code import warn
from tinynn import tree
from tinynn.compiler.codegen.renderers import RENDERERS
from tinynn.compiler.loops import Loops
from tinynn.compiler.pipelines import decompositions
from tinynn.compiler.rewrite import CannotEmit, size
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import record

# Elements of a value, and multiplications of all products: beyond them a library's calls are as
# quick, and may have several threads.
_LARGEST, _LARGEST_PRODUCTS = 2**13, 2**17


def bound(
    f: Callable[..., Any], trees: tuple[Any, ...], inputs: Any, backend: Any
) -> "BoundLoops | None":
    """`f(*trees, (x,))` as a kernel for arrays like the only input; None where that will not do.

    Parameters
    ----------
    f
        Gives an array and a number.
    trees
        Of arrays, which are read where they are in each call.
    """
    arrays, structure = tree.flatten(trees)
    alone = len(inputs) == 1 and hasattr(inputs[0], "dtype")
    if not alone or not backend.xp.isdtype(inputs[0].dtype, "real floating"):
        return None

    def given(*arrays: Any) -> Any:
        return f(*structure.unflatten(list(arrays[:-1])), arrays[-1:])

    try:
        return BoundLoops(given, arrays, inputs[0], backend)
    except CannotEmit as error:
        if isinstance(error.__cause__, KernelError):  # which should not be
            warn(f"compile: the network runs in the library's calls instead: {error}")
    except BackendUnavailable:
        pass
    return None


class BoundLoops:
    """A function of one array as a kernel, whose other arguments are known.

    Raises CannotEmit if it has no form in loops, is too large for them, or this backend's loops
    cannot be bound; BackendUnavailable if what compiles them is not installed.

    Parameters
    ----------
    f
        Gives an array and a number from arrays and, last, the one that each call brings.
    fixed
        The arrays that are known, which are read where they are in each call.
    x
        One like those to come.
    backend
        Where they are.

    Attributes
    ----------
    source
        The kernel, as Python.
    nbytes
        Of memory that it keeps.
    """

    def __init__(self, f: Callable[..., Any], fixed: list[Any], x: Any, backend: Any) -> None:
        lowering, native = backend.lowering, backend.native()
        if native is None or native.bind is None or lowering is None:
            raise CannotEmit(f"the loops of {backend} cannot be bound to memory")
        with backend.scope(), lowering.recording():
            example = f(*fixed, x)[0]
            if not hasattr(example, "dtype"):
                raise CannotEmit("the function gives no single array")

            def step(y: Any, *given: Any) -> Any:
                return f(*given)

            graph = record(step, example, *fixed, x, decompositions=decompositions(lowering))
        _check(graph)
        loops = Loops(graph, 1, backend, [])
        self.source = RENDERERS["python"](loops.function)
        loops.load([example])
        (y,), self._x = loops.kept, backend.xp.zeros(x.shape, dtype=x.dtype, device=x.device)
        self._y, self._number = y.reshape(example.shape), backend.xp.zeros(1, dtype=x.dtype)
        given = [self._number, y, *fixed, self._x, *loops.memory]
        try:
            self._go = native.bind(loops.kernel, 1, 1, given)
        except TypeError as error:  # an array that does not lie in one piece
            raise CannotEmit(str(error)) from None
        self.nbytes = sum(a.nbytes for a in (self._x, y, *loops.memory))

    def __call__(self, x: Any) -> tuple[Any, Any]:
        """The array, new, and the number."""
        self._x[...] = x
        self._go()
        return self._y.copy(), self._number.item()


def _check(graph: Graph) -> None:
    """CannotEmit for a graph whose calls are not many for their work, or that is not alone."""
    if graph.constants:
        raise CannotEmit("the function reads arrays from outside")
    products = 0
    for node in graph.nodes:
        if any(isinstance(value, Graph) for value in node.kwargs.values()):
            raise CannotEmit("the function has loops or branches of its own")
        if node.dtype is not None and size(node) > _LARGEST:
            raise CannotEmit("the function is too large for loops")
        if node.name == "take":
            raise CannotEmit("the function reads indices")
        if node.name == "matmul":
            products += size(node) * node.args[0].shape[-1]
    if products > _LARGEST_PRODUCTS:
        raise CannotEmit("the function is too large for loops")
