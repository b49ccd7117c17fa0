"""A seventh library, which nobody has heard of."""

import sys
import types

# A library that this project does not know: the standard, thinly wrapped around `inner`.
SEVENTH = """
import sys

class Array:
    def __init__(self, value):
        self.value = value
    def __array_namespace__(self, api_version=None):
        return sys.modules[__name__]
    def __getattr__(self, name):  # shape, dtype, device, ndim, ...
        return getattr(self.value, name)
    def __dlpack__(self, **settings):
        return self.value.__dlpack__(**settings)
    def __dlpack_device__(self):
        return self.value.__dlpack_device__()

def unwrapped(x):
    if isinstance(x, (tuple, list)):
        return type(x)(map(unwrapped, x))
    return x.value if isinstance(x, Array) else x

def wrapped(x):
    if isinstance(x, (tuple, list)):
        return type(x)(map(wrapped, x))
    return Array(x) if hasattr(x, "shape") else x

def wrapper(function):
    def call(*args, **settings):
        return wrapped(function(*map(unwrapped, args), **settings))
    return call

for name in (
    "add radd sub rsub mul rmul truediv rtruediv neg and rand or ror xor rxor lshift rshift "
    "lt le gt ge eq ne getitem"
).split():
    method = f"__{name}__"
    setattr(Array, method, lambda self, *args, method=method: wrapper(
        lambda x, *rest: getattr(x, method)(*rest))(self, *args))

def __getattr__(name):
    found = getattr(inner, name)
    plain = isinstance(found, type) or not callable(found) or name.startswith("__")
    return found if plain else wrapper(found)
"""


def seventh_library(inner):
    """SEVENTH as a module around that namespace."""
    module = types.ModuleType("seventh")
    module.inner = inner
    sys.modules["seventh"] = module
    exec(SEVENTH, module.__dict__)
    return module
