"""Folds: each network is trained without a part of the samples, and measured on that part."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import backends
from backends import random
from tinynn import losses, tree
from tinynn.config import label
from tinynn.data import ArrayDataset, Subset
from tinynn.training.batches import HOLD_OUT
from tinynn.training.problem import Problem, classes_of


def check_folds(folds: Any, validation: Any, groups: Any) -> None:
    """ValueError unless `folds` is a number of folds, and nothing else is held out."""
    if folds is None:
        if groups is not None:
            raise ValueError(
                "fit_many: groups: expected folds= beside groups, which says into how many parts "
                "they are put, got none. To fix it: give folds=5"
            )
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


def in_folds(
    problem: Problem, folds: int, in_order: bool, groups: Any = None
) -> tuple[list[Problem], Any]:
    """The problem of each fold, and the number of the fold that holds each sample out.

    Folds differ in size by one sample at most. They are drawn by the seed, and hold the same share
    of each class; those that are `in_order` are one stretch of samples after another. Samples of
    one group are in one fold. Where sizes differ, the smaller parts to train on are filled up by
    samples of their own that weigh 0, so that all networks are one program.

    Raises ValueError for more folds than samples or groups, or for a loss that cannot weigh those.
    """
    batches, home = problem.batches, problem.backend
    dataset: Any = batches.dataset
    count, xp = dataset.size, home.xp
    if count < folds:
        raise ValueError(
            f"fit_many: folds: expected {count} at most, as many as there are samples, got "
            f"{folds}. To fix it: give folds={max(2, min(5, count))}, or more samples"
        )
    order = xp.arange(count, device=home.device)
    if groups is not None:
        numbers = _of_groups(groups, folds, count)
    else:
        order = order if in_order else _order(problem)
        numbers = [i % folds for i in range(count)]  # of the fold that each place is in
        numbers = sorted(numbers) if in_order else numbers

    def rows(places: list[int]) -> Any:
        return xp.sort(xp.take(order, home.asarray(places, dtype=order.dtype)))

    held = [rows([i for i, n in enumerate(numbers) if n == fold]) for fold in range(folds)]
    kept = [rows([i for i, n in enumerate(numbers) if n != fold]) for fold in range(folds)]
    longest = max(int(own.shape[0]) for own in kept)
    short = [longest - int(own.shape[0]) for own in kept]
    if any(short) and not isinstance(problem.step.loss, losses.Loss):
        raise ValueError(
            f"fit_many: folds: expected folds of one size under a loss that weighs no samples, "
            f"{label(problem.step.loss)}, got {folds} of {count} samples. To fix it: give a loss "
            "of tinynn.losses, or other folds"
        )
    filled: Any = dataset
    if any(short):  # those that hold more out have less to train on
        again = [
            xp.take(own, home.asarray([i % (longest - more) for i in range(more)], dtype=own.dtype))
            for own, more in zip(kept, short, strict=True)
            if more
        ]
        filled = ArrayDataset(_filled(dataset, xp.concat(again), problem), home)
        place = count
        for fold, more in enumerate(short):
            ends = home.asarray(list(range(place, place + more)), dtype=kept[fold].dtype)
            kept[fold] = xp.concat([kept[fold], ends]) if more else kept[fold]
            place += more
    size = min(batches.size, longest)
    shuffle = batches.shuffle and size < longest
    problems = [
        replace(
            problem,
            batches=replace(batches, dataset=Subset(filled, own, home), size=size, shuffle=shuffle),
            validation=Subset(dataset, out, home),
        )
        for own, out in zip(kept, held, strict=True)
    ]
    return problems, xp.take(home.asarray(numbers, dtype="int32"), xp.argsort(order))


def _of_groups(groups: Any, folds: int, count: int) -> list[int]:
    """The fold of each sample: the largest group first, each into the fold that has the fewest."""
    known = list(groups) if not backends.is_array(groups) else _on_host(groups)
    if len(known) != count:
        raise ValueError(
            f"fit_many: groups: expected one for each of {count} samples, got {len(known)}. To fix "
            "it: give the group of every row of X, in their order"
        )
    for row, group in enumerate(known):
        if not isinstance(group, Hashable) or _is_missing(group):
            raise ValueError(
                f"fit_many: groups: expected a number or a name for each sample, got {group!r} for "
                f"sample {row}. To fix it: give samples without a group one of their own each, "
                "or leave them out"
            )
    sizes = Counter(known)
    if len(sizes) < folds:
        raise ValueError(
            f"fit_many: folds: expected {len(sizes)} at most, as many as there are groups, got "
            f"{folds}. To fix it: give fewer folds, or finer groups"
        )
    full, place = [0] * folds, {}
    for group, size in sizes.most_common():
        place[group] = full.index(min(full))
        full[place[group]] += size
    return [place[group] for group in known]


def _is_missing(group: Any) -> bool:
    try:
        return group is None or bool(group != group)  # NaN is not itself
    except TypeError:  # what another library has for it has no truth value
        return True


def _on_host(groups: Any) -> list[Any]:
    found = backends.of(groups).to_host(groups)
    if found.ndim != 1:
        raise ValueError(
            f"fit_many: groups: expected the shape (samples,), got {tuple(found.shape)}. To fix "
            "it: give one number or name for each sample"
        )
    return list(found.tolist())


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
