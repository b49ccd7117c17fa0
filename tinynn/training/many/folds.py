"""Folds: each network is trained without a part of the samples, and measured on that part."""

from dataclasses import replace
from typing import Any

from backends import random
from tinynn import losses, tree
from tinynn.config import label
from tinynn.data import ArrayDataset, Subset
from tinynn.training.batches import HOLD_OUT
from tinynn.training.problem import Problem, classes_of


def check_folds(folds: Any, validation: Any) -> None:
    """ValueError unless `folds` is a number of folds, and nothing else is held out."""
    if folds is None:
        return
    if not hasattr(folds, "__index__") or isinstance(folds, bool) or folds < 2:
        raise ValueError(
            f"fit_many: folds: expected a whole number of 2 or more, got {folds!r}. To fix it: "
            "give folds=5, or leave it out"
        )
    if validation is not None:
        raise ValueError(
            "fit_many: folds: expected no validation= beside folds, which are what each network is "
            "measured on, got both. To fix it: leave one of them out"
        )


def in_folds(problem: Problem, folds: int, in_order: bool) -> tuple[list[Problem], Any]:
    """The problem of each fold, and the number of the fold that holds each sample out.

    Folds differ in size by one sample at most. They are drawn by the seed, and hold the same share
    of each class; those that are `in_order` are one stretch of samples after another. Where sizes
    differ, the smaller parts to train on are filled up by a sample of their own that weighs 0,
    so that all networks are one program.

    Raises ValueError for more folds than samples, or for a loss that cannot weigh those.
    """
    batches, home = problem.batches, problem.backend
    dataset: Any = batches.dataset
    count, xp = dataset.size, home.xp
    if count < folds:
        raise ValueError(
            f"fit_many: folds: expected {count} at most, as many as there are samples, got "
            f"{folds}. To fix it: give folds={max(2, min(5, count))}, or more samples"
        )
    rest = count % folds
    if rest and not isinstance(problem.step.loss, losses.Loss):
        raise ValueError(
            f"fit_many: folds: expected a number that divides {count} samples under a loss that "
            f"weighs none, {label(problem.step.loss)}, got {folds}. To fix it: give a loss of "
            "tinynn.losses, or other folds"
        )
    order = xp.arange(count, device=home.device) if in_order else _order(problem)
    few = count // folds
    numbers = [i % folds for i in range(count)]  # of the fold that each place of the order is in
    numbers = sorted(numbers) if in_order else numbers

    def rows(places: list[int]) -> Any:
        return xp.sort(xp.take(order, home.asarray(places, dtype=order.dtype)))

    held = [rows([i for i, n in enumerate(numbers) if n == fold]) for fold in range(folds)]
    kept = [rows([i for i, n in enumerate(numbers) if n != fold]) for fold in range(folds)]
    filled: Any = dataset
    if rest:  # those that hold a sample more out have one less to train on
        extra = xp.stack([own[0] for own in kept[:rest]])
        filled = ArrayDataset(_filled(dataset, extra, problem), home)
        ends = [home.asarray([count + fold], dtype=kept[fold].dtype) for fold in range(rest)]
        kept[:rest] = [xp.concat(pair) for pair in zip(kept[:rest], ends, strict=True)]
    size = min(batches.size, count - few)
    shuffle = batches.shuffle and size < count - few
    problems = [
        replace(
            problem,
            batches=replace(batches, dataset=Subset(filled, own, home), size=size, shuffle=shuffle),
            validation=Subset(dataset, out, home),
        )
        for own, out in zip(kept, held, strict=True)
    ]
    return problems, xp.take(home.asarray(numbers, dtype="int32"), xp.argsort(order))


def _order(problem: Problem) -> Any:
    """The samples in the order in which they are dealt out to the folds."""
    batches, home = problem.batches, problem.backend
    dataset: Any = batches.dataset
    count, xp = dataset.size, home.xp
    order = random.permutation(random.fold_in(batches.key, HOLD_OUT), count)
    labels = classes_of(dataset, home)
    if labels is not None:  # by class, at random within it
        labels = xp.take(labels, order)
        labels = xp.astype(labels, xp.int32) if xp.isdtype(labels.dtype, "bool") else labels
        order = xp.take(order, xp.argsort(labels, stable=True))
    return order


def _filled(dataset: Any, extra: Any, problem: Problem) -> Any:
    """All samples, and once more those of these numbers, which weigh 0."""
    xp, samples = problem.backend.xp, dataset.between(0, dataset.size)
    weight = samples.sample_weight
    if weight is None:
        dtype = tree.leaves(problem.start.params)[0].dtype
        weight = problem.backend.asarray([1.0] * dataset.size, dtype=dtype)
    more = tree.map(lambda a: xp.take(a, extra, axis=0), samples._replace(sample_weight=weight))
    more = more._replace(sample_weight=more.sample_weight * 0.0)
    return tree.map(
        lambda a, b: xp.concat([a, b], axis=0), samples._replace(sample_weight=weight), more
    )
