"""A fitted network as bytes, for pickling: its arrays are a file of tinynn's, with a digest.

What is no array, such as the layers, is pickled as objects are: by the names of their classes, with
their settings. No code is stored.
"""

from typing import Any

import backends
from tinynn import tree
from tinynn.sklearn.arrays import is_number
from tinynn.training import files

_KIND = "estimator"


def packed(value: Any) -> dict[str, Any]:
    """A tree of arrays of numbers, all on one backend, and of what pickle knows, as bytes."""
    leaves, structure = tree.flatten(value)
    places = [
        place for place, leaf in enumerate(leaves) if backends.is_array(leaf) and is_number(leaf)
    ]
    home = backends.of(*(leaves[place] for place in places))
    arrays = [(str(place), home.to_host(leaves[place])) for place in places]
    others = {place: leaf for place, leaf in enumerate(leaves) if place not in places}
    return {
        "file": files.pack(arrays, {}, kind=_KIND),
        "backend": repr(home),
        "others": others,
        "places": structure.unflatten(range(len(leaves))),
    }


def unpacked(stored: dict[str, Any]) -> Any:
    """The value that `packed` was given, on the backend that it was on.

    Raises
    ------
    ModelFileError : the bytes are not those that were written
    BackendUnavailable : that library or device is not here

    """
    home = backends.get(stored["backend"])
    tensors, _ = files.unpack(stored["file"], "the pickled estimator", kind=_KIND)
    leaves = dict(stored["others"])
    for place, tensor in tensors.items():
        leaves[int(place)] = home.asarray(files.values_of(tensor, home), tensor.dtype)
    return tree.map(lambda place: leaves[place], stored["places"])
