"""Transformations of gradients: clipping, penalties, moments; optimizers in parts."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close, assert_equal
from tests.optim.trees import GRADIENTS, PARAMS, assert_trees_close, placed
from tinynn import tree
from tinynn.optim import (
    L1,
    L2,
    SGD,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    ClipByNorm,
    ClipByValue,
    GradientTransformation,
    Masked,
    Momentum,
    Optimizer,
    Scale,
    ScaleByAdam,
)
from tinynn.trace import namespace


def transformed(part: GradientTransformation, gradients: Any, params: Any) -> Any:
    return part.update(gradients, part.init(params), params)[0]


def test_clip_by_value(backend: backends.Backend, float_dtype: Any) -> None:
    g = backend.asarray([-3.0, -0.5, 0.0, 2.0], dtype=float_dtype)
    clipped = transformed(ClipByValue(1.0), {"w": g}, {"w": g})["w"]
    assert_equal(clipped, [-1.0, -0.5, 0.0, 1.0], backend, dtype=float_dtype)


def test_clip_by_norms(backend: backends.Backend, float_dtype: Any) -> None:
    gradients = placed(GRADIENTS[0], backend, float_dtype)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in tree.leaves(GRADIENTS[0])))

    def by_own_norm(g: Any) -> Any:
        return g * min(1.0, 0.5 / (np.linalg.norm(g) + 1e-6))

    for part, expected in (
        (ClipByGlobalNorm(0.5), tree.map(lambda g: g * (0.5 / (norm + 1e-6)), GRADIENTS[0])),
        (ClipByNorm(0.5), tree.map(by_own_norm, GRADIENTS[0])),
    ):
        clipped = transformed(part, gradients, gradients)
        assert_trees_close(clipped, expected, backend, dtype=float_dtype)
    zeros = tree.map(lambda g: 0.0 * g, gradients)
    for kind in (ClipByGlobalNorm, ClipByNorm):
        for below in (gradients, zeros):
            untouched = transformed(kind(1e3), below, gradients)
            assert_trees_close(untouched, tree.map(backend.to_host, below), backend, rtol=0.0)


@pytest.mark.only("torch")
def test_clipping_is_pytorchs(backend: backends.Backend) -> None:
    import torch

    gradients = [backend.asarray(g, dtype="float32") for g in tree.leaves(GRADIENTS[0])]
    theirs = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for leaf, gradient in zip(theirs, gradients, strict=True):
        leaf.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    ours = transformed(ClipByGlobalNorm(0.5), gradients, gradients)
    for clipped, leaf in zip(ours, theirs, strict=True):
        assert_close(clipped, backend.to_host(leaf.grad), backend, dtype="float32")


def test_penalties_are_gradients(backend: backends.Backend, float_dtype: Any) -> None:
    w = backend.asarray([-2.0, 0.0, 3.0], dtype=float_dtype)
    zeros = [backend.xp.zeros_like(w)]

    def l1(w: Any) -> Any:
        return 0.3 * namespace(w).sum(namespace(w).maximum(w, -w))  # its slope at 0 is 0

    def l2(w: Any) -> Any:
        return 0.5 * 0.3 * namespace(w).sum(w * w)

    for part, penalty in ((L1(0.3), l1), (L2(0.3), l2)):
        expected = backend.to_host(tinynn.grad(penalty)(w))
        assert_close(transformed(part, zeros, [w])[0], expected, backend, dtype=float_dtype)


def test_chain_transforms_in_order(backend: backends.Backend, float_dtype: Any) -> None:
    params = placed(PARAMS, backend, float_dtype)
    gradients = placed(GRADIENTS[0], backend, float_dtype)
    chain = Chain(L2(0.5), ClipByValue(0.4), Adam(0.1))
    new, state = chain.update(gradients, chain.init(params), params)
    by_hand = transformed(L2(0.5), gradients, params)
    by_hand = transformed(ClipByValue(0.4), by_hand, params)
    expected, _ = Adam(0.1).update(by_hand, Adam(0.1).init(params), params)
    assert_trees_close(new, tree.map(backend.to_host, expected), backend, rtol=0.0)
    assert list(state) == ["0", "1", "2"]
    assert set(state["2"]) == {"step", "sum", "sum_of_squares"}


@pytest.mark.parametrize(
    ("chain", "whole"),
    [
        (Chain(Momentum(0.8), SGD(0.1)), SGD(0.1, momentum=0.8)),
        (Chain(Momentum(0.8, nesterov=True), SGD(0.1)), SGD(0.1, momentum=0.8, nesterov=True)),
        (Chain(ScaleByAdam(beta2=0.9), SGD(0.1)), Adam(0.1, beta2=0.9)),
        (Chain(ScaleByAdam(), L2(0.3), SGD(0.1)), AdamW(0.1, weight_decay=0.3)),
        (Chain(ScaleByAdam(amsgrad=True), Scale(2.0), SGD(0.1)), Adam(0.2, amsgrad=True)),
        (Chain(ScaleByAdam(), Masked(L2(0.3), "*weight"), SGD(0.1)),
         AdamW(0.1, weight_decay=0.3, mask="*weight")),
    ],
    ids=str,
)  # fmt: skip
def test_optimizers_in_parts(chain: Optimizer, whole: Optimizer, backend: backends.Backend) -> None:
    results = []
    for optimizer in (chain, whole):
        params = placed(PARAMS, backend, None)
        state = optimizer.init(params)
        for gradients in GRADIENTS:
            gradients = placed(gradients, backend, None)
            params, state = optimizer.update(gradients, state, params)
        results.append(params)
    assert_trees_close(
        results[0], tree.map(backend.to_host, results[1]), backend, rtol=2e-5, atol=2e-6
    )
