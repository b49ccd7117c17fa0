"""Programs: emitted source, compiled once, that can be run with other arrays bound to its names."""

import linecache
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import finalize

from tinynn.compiler.renderer import Line

_serial = count()


class Program:
    """Emitted source, compiled once, that can be run with other arrays bound to its names."""

    def __init__(self, name: str, source: str, library: Any = None) -> None:
        self.source, self._library = source, library
        self.file = f"<tinynn {name} {next(_serial)}>"
        self._code = compile(source, self.file, "exec")
        # Where tracebacks and debuggers look for it.
        linecache.cache[self.file] = (len(source), None, source.splitlines(True), self.file)
        finalize(self, linecache.cache.pop, self.file, None)

    @property
    def names(self) -> set[str]:
        """Every name in it, attributes too."""
        return _names(self._code)

    @contextmanager
    def explained(self, lines: Sequence[Line]) -> Iterator[None]:
        """A context in which errors of the program are explained: see `explain`."""
        try:
            yield
        except Exception as error:
            self.explain(error, lines)
            raise

    def explain(self, error: Exception, lines: Sequence[Line]) -> None:
        """Note in an error the layer and the line of the user's code that made the failing call."""
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.file:
                line = lines[trace.tb_lineno - 1]
                if line.node is not None:
                    error.add_note(f"in {line.text.strip()}: {line.node.origin}")
                    return
            trace = trace.tb_next

    def __call__(self, bound: dict[str, Any]) -> dict[str, Any]:
        """The functions that the source defines; what is not bound comes from the library.

        Each holds the arrays by its globals, which do not hold it: they go when it does.
        """
        scope = dict(bound)
        for name in self.names:
            if name not in scope and hasattr(self._library, name):
                scope[name] = getattr(self._library, name)
        exec(self._code, scope)  # the source is what this module wrote
        defined = [n for n, value in scope.items() if getattr(value, "__globals__", None) is scope]
        return {name: scope.pop(name) for name in defined}


def _names(code: Any) -> set[str]:
    inner = [c for c in code.co_consts if hasattr(c, "co_names")]
    return set(code.co_names).union(*map(_names, inner))
