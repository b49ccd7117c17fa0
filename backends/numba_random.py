"""Orders of many networks' samples by machine code, as `backends.random.permutation` draws them.

Every word gets its place behind it, so that sorting numbers does what a stable `argsort` of the
words does, in a third of the time.
"""

from functools import cache
from typing import Any

import numpy as np

from backends import openblas, threads
from backends.lowering import LoopCompiler
from backends.numba import build
from backends.numpy_random import PARITY, ROTATIONS


def _source() -> str:
    """A kernel that draws `steps` words of a key, each with its place in the lower half."""
    lines = [
        "def run(steps, times, out, key):",
        "    half = (steps + 1) // 2",
        "    k0 = uint32(key[0])",
        "    k1 = uint32(key[1])",
        f"    k2 = uint32(k0 ^ k1 ^ uint32({PARITY}))",
        "    for i in range(half):",
        "        j = half + i",
        "        x0 = uint32(uint32(i) + k0)",
        "        x1 = uint32(uint32(j if j < steps else 0) + k1)",
    ]
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            lines += [
                "        x0 = uint32(x0 + x1)",
                f"        left = uint32(x1 << uint32({rotation}))",
                f"        x1 = uint32(uint32(left | (x1 >> uint32({32 - rotation}))) ^ x0)",
            ]
        lines += [
            f"        x0 = uint32(x0 + k{(turn + 1) % 3})",
            f"        x1 = uint32(uint32(x1 + k{(turn + 2) % 3}) + uint32({turn + 1}))",
        ]
    lines += [
        "        out[i] = (int64(int32(x0)) << 32) | i",
        "        if j < steps:",
        "            out[j] = (int64(int32(x1)) << 32) | j",
    ]
    return "\n".join(lines) + "\n"


@cache
def _kernel() -> Any:
    return build(_source(), ("int64", "int32"))


def permutations(keys: Any, n: int) -> Any:
    """0 to n - 1 in an order for each key, (keys, n), as `backends.random.permutation` has it.

    keys: (keys, 2) int32.
    """
    words = np.empty((len(keys), n), np.int64)
    keys = np.ascontiguousarray(keys)
    _kernel().each(range(len(keys)), (n, 2), n, 1, words, keys)
    threads.shared(lambda k: words[k].sort(), len(keys))
    return words & 0xFFFFFFFF


NATIVE = LoopCompiler(build, np.ravel, openblas.products(), permutations=permutations)
