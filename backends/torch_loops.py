"""Explicit loops on PyTorch's arrays of the host: machine code on the memory they lie in."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from backends import llvm
from backends.llvm_random import NATIVE
from backends.lowering import LoopCompiler, Taken

#: From an array of the host to NumPy's on the same memory.
Shared = Callable[[Any], Any]


def loops(shared: Shared) -> LoopCompiler:
    """The compiler of loops on the host, for arrays that NumPy can share the memory of."""

    def build(source: str, dtypes: Sequence[str]) -> Callable[..., None]:
        return _Kernel(llvm.build(source, dtypes), shared)

    def permutations(keys: Any, n: int) -> Any:
        assert NATIVE.permutations is not None
        return torch.from_numpy(NATIVE.permutations(shared(keys), n))

    # Not bound: what one row asks for besides its kernel is made for NumPy's arrays.
    return replace(NATIVE, build=build, flat=torch.ravel, permutations=permutations, bind=None)


class _Kernel:
    """A kernel on arrays whose memory NumPy's share."""

    def __init__(self, kernel: Any, shared: Shared) -> None:
        self._kernel, self._shared = kernel, shared

    def __call__(self, steps: int, times: int, *arrays: Any) -> None:
        self._kernel(steps, times, *map(self._shared, arrays))

    def each(
        self, networks: Sequence[int], apart: Sequence[int], steps: int, times: int, *arrays: Any
    ) -> None:
        """The kernel for each of these networks; see `LoopCompiler`."""
        self._kernel.each(networks, apart, steps, times, *map(self._seen, arrays))

    def _seen(self, array: Any) -> Any:
        if isinstance(array, Taken):
            return Taken(self._shared(array.array), self._shared(array.rows))
        return self._shared(array)
