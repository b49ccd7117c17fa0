"""Labels of classes as the numbers that a loss takes, and back."""

from typing import Any

from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

import backends
from backends import Backend
from tinynn.data.hostdata import is_sparse
from tinynn.sklearn import arrays

# What y may be: one column of classes, several of them, or columns of 0 and 1.
ONE, SEVERAL, MULTILABEL = "multiclass", "multiclass-multioutput", "multilabel-indicator"


def read(y: Any) -> tuple[Any, str]:
    """(y as a dense array; its kind). ValueError for what is no labels."""
    if is_sparse(y):
        y = y.toarray()
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    # scikit-learn 1.9 cannot look at columns of integers of every library.
    seen = y if y.ndim == 1 else backends.of(y).to_host(y)
    if type_of_target(seen, input_name="y") == "unknown":  # whose words are of regression
        kinds = sorted({type(label).__name__ for label in seen.reshape(-1).tolist()})
        raise ValueError(
            "Unknown label type: y: expected labels that are all texts, whole numbers or "
            f"booleans, got {', '.join(kinds)}. To fix it: give one label of one type for each "
            "row, and leave out rows without"
        )
    check_classification_targets(seen)
    kind = type_of_target(seen, input_name="y")
    if kind == MULTILABEL:
        return y, MULTILABEL
    return y, SEVERAL if y.ndim == 2 else ONE


def classes_of(home: Backend, y: Any, kind: str, named: Any = None) -> Any:
    """The classes, sorted: those of y, or those that are named; a list for several columns.

    Numbers are on `home`, as what they are compared with is; texts stay on the host.
    """
    if kind == MULTILABEL:
        return moved(home, backends.of(y).xp.arange(y.shape[1], device=backends.of(y).device))
    if kind == SEVERAL:
        columns = [y[:, place] for place in range(y.shape[1])] if named is None else named
        return [classes_of(home, each, ONE) for each in columns]
    given = y if named is None else named
    if not backends.is_array(given):
        given = column_or_1d(given)
    return moved(home, _sorted_values(given))


def _sorted_values(y: Any) -> Any:
    xp = backends.of(y).xp
    found = xp.unique_values(y)  # in any order
    if arrays.is_number(y) and xp.isdtype(y.dtype, "bool"):
        return xp.astype(xp.sort(xp.astype(found, xp.int8)), y.dtype)
    return xp.sort(found)


def moved(home: Backend, classes: Any) -> Any:
    """Classes on `home`, if they are numbers; texts stay on the host."""
    if isinstance(classes, list):
        return [moved(home, each) for each in classes]
    return arrays.on(home, classes) if arrays.is_number(classes) else classes


def encoded(owner: str, home: Backend, y: Any, classes: Any) -> Any:
    """The place of each label among the classes, on `home`.

    Raises ValueError for a label that is none of them.
    """
    at = backends.of(classes)
    try:
        y = arrays.on(at, y)
        if arrays.is_number(classes) and at.xp.isdtype(classes.dtype, "bool"):
            y, classes = (at.xp.astype(each, at.xp.int8) for each in (y, classes))
        places = at.xp.searchsorted(classes, y)
        places = at.xp.minimum(places, at.xp.full_like(places, classes.shape[0] - 1))
        strange = at.to_host(at.xp.take(classes, places) != y)
    except TypeError as error:  # texts cannot be compared with numbers
        raise _unknown(owner, classes, f"labels of {y.dtype}") from error
    if strange.any():
        raise _unknown(owner, classes, repr(at.to_host(y)[strange].tolist()[0]))
    return arrays.on(home, places)


def _unknown(owner: str, classes: Any, got: str) -> ValueError:
    known = listed(classes)
    shown = ", ".join(map(repr, known[:10])) + (", ..." if len(known) > 10 else "")
    return ValueError(
        f"{owner}: `y` has classes not in `self.classes_`: expected labels out of {shown}, as they "
        f"were first known, got {got}. To fix it: name all classes in the first partial_fit, or "
        "fit anew with warm_start=False"
    )


def decoded(classes: Any, places: Any) -> Any:
    """The labels at these places, where the classes are; for texts that is the host."""
    at = backends.of(classes)
    return at.xp.take(classes, arrays.on(at, places))


def count(classes: Any) -> int:
    """The number of classes; for several columns, the number of columns."""
    return len(classes) if isinstance(classes, list) else int(classes.shape[0])


def listed(classes: Any) -> list[Any]:
    """Classes as a list, for messages and comparisons."""
    if isinstance(classes, list):
        return [listed(each) if backends.is_array(each) else each for each in classes]
    found: list[Any] = backends.of(classes).to_host(classes).tolist()
    return found


def class_weights(owner: str, given: Any, classes: Any, places: Any, home: Backend) -> Any:
    """The weight that the class of each sample has, as `class_weight` says: (samples,)."""
    known = listed(classes)
    if isinstance(given, dict):
        strange = [label for label in given if label not in known]
        if strange:
            raise ValueError(
                f"{owner}: class_weight: expected labels out of {known}, got {strange[0]!r}"
            )
        by_class = [float(given.get(label, 1.0)) for label in known]
    elif isinstance(given, str) and given == "balanced":
        numbers = backends.of(places).to_host(places)
        met = sorted(set(numbers.tolist()))
        balanced = compute_class_weight("balanced", classes=column_or_1d(met), y=numbers)
        found = dict(zip(met, map(float, balanced), strict=True))
        by_class = [found.get(place, 1.0) for place in range(len(known))]
    else:
        raise ValueError(
            f"{owner}: class_weight: expected a dict of labels and numbers (for several columns of "
            f"y a list of them), 'balanced' or None, got {given!r}"
        )
    return home.xp.take(home.asarray(by_class), places)
