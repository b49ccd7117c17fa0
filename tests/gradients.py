"""Gradients of one source, found in three ways: tinynn's, a library's own, and differences."""

from collections.abc import Callable
from typing import Any

import numpy as np

import backends
import tinynn
from tests.checks import assert_close
from tinynn import tree


def placed(host: Any, backend: backends.Backend, dtype: Any) -> Any:
    """A tree of host arrays as a tree of the backend's, the floating ones of this dtype."""
    return tree.map(
        lambda leaf: backend.asarray(leaf, dtype=dtype if leaf.dtype.kind == "f" else None), host
    )


def assert_matches_differences(
    f: Callable[..., Any], args: tuple[Any, ...], backend: backends.Backend
) -> None:
    """tinynn's gradient of f by every one of args (trees of float64), in one random direction."""
    gradient = tinynn.grad(f, argnums=tuple(range(len(args))))(*args)
    draw, step = np.random.default_rng(0), 1e-6
    slope = 0.0
    ahead, behind = [], []
    for leaf, slope_leaf in zip(tree.leaves(args), tree.leaves(gradient), strict=True):
        direction = backend.asarray(draw.normal(size=tuple(leaf.shape)), dtype=leaf.dtype)
        assert slope_leaf.dtype == leaf.dtype
        assert tuple(slope_leaf.shape) == tuple(leaf.shape)
        assert backends.of(slope_leaf) == backend
        with backend.scope():
            slope += float(backend.xp.sum(slope_leaf * direction))
            ahead.append(leaf + step * direction)
            behind.append(leaf - step * direction)
    structure = tree.flatten(args)[1]
    with backend.scope():
        rise = float(f(*structure.unflatten(ahead))) - float(f(*structure.unflatten(behind)))
    np.testing.assert_allclose(slope, rise / (2 * step), rtol=1e-6, atol=1e-8)


def assert_matches_library(
    f: Callable[..., Any],
    library_gradient: Callable[[Callable[..., Any], tuple[Any, ...]], Any],
    args: tuple[Any, ...],
    backend: backends.Backend,
) -> None:
    """tinynn's gradients by every one of args are those that the library's own machinery finds."""
    ours = tinynn.grad(f, argnums=tuple(range(len(args))))(*args)
    theirs = dict(tree.paths(library_gradient(f, args)))  # by name: JAX sorts the keys of dicts
    assert len(theirs) == len(tree.leaves(ours))
    for name, leaf in tree.paths(ours):
        expected = backend.to_host(theirs[name])
        assert_close(leaf, expected, backend, dtype=theirs[name].dtype, atol=1e-6)


def jax_gradient(f: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import jax

    return jax.grad(f, argnums=tuple(range(len(args))))(*args)


def torch_gradient(f: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import torch

    args = tree.map(lambda leaf: leaf.clone().requires_grad_(), args)
    leaves = tree.leaves(args)
    found = torch.autograd.grad(f(*args), leaves, allow_unused=True)
    filled = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
    ]
    return tree.flatten(args)[1].unflatten(filled)
