"""The block cipher of `backends.random` on dpnp's arrays: one kernel of OpenCL's.

The standard's calls that it takes otherwise are a hundred launches, most of them with a number that
becomes an array first.
"""

import ctypes
from functools import cache
from typing import Any

import dpctl
import dpnp
from dpctl.program import SyclProgramCompilationError, create_program_from_source
from dpctl.utils import SequentialOrderManager

_SOURCE = """
__kernel void tinynn_threefry(
    __global const uint* key, long key_at, __global const uint* x0, long x0_at,
    __global const uint* x1, long x1_at, __global uint* y0, long y0_at,
    __global uint* y1, long y1_at) {
  const size_t place = get_global_id(0);
  const uint rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint k0 = key[key_at], k1 = key[key_at + 1];
  const uint schedule[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  uint a = x0[x0_at + place] + k0, b = x1[x1_at + place] + k1;
  for (int turn = 0; turn < 5; ++turn) {
    for (int i = 0; i < 4; ++i) {
      a += b;
      b = rotate(b, rotations[turn % 2 * 4 + i]) ^ a;
    }
    a += schedule[(turn + 1) % 3];
    b += schedule[(turn + 2) % 3] + turn + 1;
  }
  y0[y0_at + place] = a;
  y1[y1_at + place] = b;
}
"""


def threefry(key: Any, x0: Any, x1: Any) -> tuple[Any, Any] | None:
    """The cipher of a key, (2,) int32, and of counters, (n,) int32 each; None without a kernel.

    It is for OpenCL's devices, the CPU among them, and for one counter or more.
    """
    queue = key.sycl_queue
    kernel = _kernel(queue) if x0.size else None
    if kernel is None:
        return None
    results = dpnp.empty_like(x0), dpnp.empty_like(x1)
    arrays = [*map(dpnp.ascontiguousarray, (key, x0, x1)), *results]
    given: list[Any] = []
    for array in arrays:
        memory = array.get_array().usm_data
        place = array.__sycl_usm_array_interface__["offset"]
        given += [memory, ctypes.c_int64(place)]
    before = SequentialOrderManager[queue].submitted_events
    queue.submit_async(kernel, given, [x0.size], None, before).wait()
    return results


@cache
def _kernel(queue: Any) -> Any:
    """The kernel, compiled for the queue's devices; None where that cannot be done."""
    if queue.backend != dpctl.backend_type.opencl:
        return None
    try:
        program = create_program_from_source(queue, _SOURCE)
    except SyclProgramCompilationError:
        return None
    return program.get_sycl_kernel("tinynn_threefry")
