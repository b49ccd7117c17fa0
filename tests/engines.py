"""The engines of `fit` as tests ask for them."""

from backends import Backend


def compiled_by(backend: Backend) -> str:
    """The engine that compiles there; a library's own compiler is tested where it has one."""
    return "calls" if backend.repeat is None else "jit"
