"""Orders of many networks' samples by machine code, as `backends.random.permutation` draws them.

Every word gets its place behind it, so that sorting numbers does what a stable `argsort` of the
words does, in a third of the time.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from backends import openblas, threads
from backends.llvm import bind, build
from backends.llvm_arithmetic import Number
from backends.lowering import LoopCompiler
from backends.numpy_random import PARITY, ROTATIONS

_WORD, _PLACE, _POINTER = ir.IntType(32), ir.IntType(64), ir.PointerType()


def _source() -> str:
    """A kernel that draws `steps` words of a key, each with its place in the lower half."""
    kind = ir.FunctionType(ir.VoidType(), [_PLACE, _PLACE, _POINTER, _POINTER])
    function = ir.Function(ir.Module(), kind, "run")
    steps, _, out, key = function.args
    for argument in (out, key):
        argument.add_attribute("noalias")
    blocks = [function.append_basic_block(name) for name in ("entry", "head", "body", "end")]
    entry, head, body, end = blocks
    builder = ir.IRBuilder(entry)
    k0, k1 = (Number(builder, builder.load(_at(builder, key, i, _WORD), typ=_WORD)) for i in (0, 1))
    keys = [k0, k1, k0 ^ k1 ^ PARITY]
    half = builder.lshr(builder.add(steps, _PLACE(1)), _PLACE(1))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(_PLACE)
    builder.cbranch(builder.icmp_signed("<", i, half), body, end)
    builder.position_at_end(body)
    j = builder.add(half, i)
    there = builder.icmp_signed("<", j, steps)
    first, second = i, builder.select(there, j, _PLACE(0))
    words = [Number(builder, builder.trunc(each, _WORD)) for each in (first, second)]
    words = _drawn(keys, *words)
    builder.store(_placed(builder, words[0], i), _at(builder, out, i, _PLACE))
    with builder.if_then(there):
        builder.store(_placed(builder, words[1], j), _at(builder, out, j, _PLACE))
    i.add_incoming(_PLACE(0), entry)
    i.add_incoming(builder.add(i, _PLACE(1)), builder.block)
    builder.branch(head)
    builder.position_at_end(end)
    builder.ret_void()
    return str(function.module)


def _drawn(keys: list[Number], x0: Number, x1: Number) -> list[Number]:
    """Two words, by the twenty rounds of Threefry."""
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0, x1 = x0 + keys[(turn + 1) % 3], x1 + keys[(turn + 2) % 3] + (turn + 1)
    return [x0, x1]


def _placed(builder: Any, word: Number, place: Any) -> Any:
    return builder.or_(builder.shl(builder.sext(word.value, _PLACE), _PLACE(32)), place)


def _at(builder: Any, array: Any, place: Any, kind: Any) -> Any:
    place = _PLACE(place) if isinstance(place, int) else place
    return builder.gep(array, [place], source_etype=kind)


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


NATIVE = LoopCompiler(
    build,
    np.ravel,
    openblas.products(),
    language="llvm",
    shared_bytes=4096,
    permutations=permutations,
    bind=bind,
)
