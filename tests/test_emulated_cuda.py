"""The emulated CUDA device of tests/cudacpu answers as CuPy's hardware should: as NumPy does.

Where these fail, the emulation is at fault, and other tests on it say nothing.
"""

import re
import subprocess
import sys
import threading
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from tests.cudacpu import counters, fidelity

pytestmark = pytest.mark.only("cupy")


@pytest.fixture
def cupy(backend, transfers):
    """CuPy on the emulated device, anything readable."""
    if not counters.emulated():
        pytest.skip("the CUDA device here is NVIDIA's own, not tests/cudacpu's")
    import cupy

    with transfers.allowed():
        yield cupy


CHAPTERS = fidelity.chapters()


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.filterwarnings("ignore")  # NumPy's and CuPy's, of what is drawn for them
def test_calls_agree_with_numpy(cupy, chapter, record_property, pytestconfig):
    """Every expression with one of its dtypes, in turn; with --all-cases with each."""
    calls = CHAPTERS[chapter]
    if not pytestconfig.getoption("--all-cases"):
        groups = [list(same) for _, same in groupby(calls, attrgetter("expression"))]
        calls = [same[place % len(same)] for place, same in enumerate(groups)]
    assert calls
    faults = []
    for call in calls:
        expected, got = fidelity.answer(call, np), fidelity.answer(call, cupy)
        differs = next(fidelity.differences(expected, got, cupy.asnumpy), None)
        if differs and not call.reason:
            faults.append(f"{call}: {differs}")
        if call.reason and not differs:
            faults.append(f"{call}: agrees, though calls.txt says otherwise ({call.reason})")
    known = sum(bool(call.reason) for call in calls)
    record_property("fidelity", (len(calls) - known, len(faults), known))
    assert not faults, "\n".join(faults)


BLOCK_SUM = r"""
extern "C" __global__ void block_sum(const float* x, float* sums, int n) {
  extern __shared__ float shared[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}
"""


def test_raw_kernels_have_shared_memory_and_barriers(cupy):
    x = np.random.default_rng(1).normal(size=1000).astype("float32")
    sums = cupy.empty(8, dtype="float32")
    kernel = cupy.RawKernel(BLOCK_SUM, "block_sum")
    kernel((8,), (128,), (cupy.asarray(x), sums, np.int32(1000)), shared_mem=4 * 128)
    expected = np.pad(x, (0, 24)).reshape(8, 128).sum(1, dtype="float64")
    np.testing.assert_allclose(cupy.asnumpy(sums), expected, rtol=1e-5, atol=1e-5)


HISTOGRAM = r"""
extern "C" __global__ void histogram(const int* x, int* counts, int* order, int n) {
  __shared__ int local[8];
  if (threadIdx.x < 8) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&local[x[i]], 1);
  __syncthreads();
  if (threadIdx.x < 8) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
  order[threadIdx.x] = __shfl_xor_sync(0xffffffff, int(threadIdx.x), 1);
}
"""


def test_raw_kernels_have_atomics_and_shuffles(cupy):
    x = np.random.default_rng(2).integers(0, 8, 500).astype("int32")
    counts, order = cupy.zeros(8, dtype="int32"), cupy.empty(64, dtype="int32")
    kernel = cupy.RawKernel(HISTOGRAM, "histogram")
    kernel((1,), (64,), (cupy.asarray(x), counts, order, np.int32(500)))
    np.testing.assert_array_equal(cupy.asnumpy(counts), np.bincount(x, minlength=8))
    np.testing.assert_array_equal(cupy.asnumpy(order), np.arange(64) ^ 1)


def test_no_module_is_taken_for_one_of_the_same_name(cupy):
    """The loader gives a loaded library again by its name alone, though its file was removed."""
    for i in range(3):
        text = f'extern "C" __global__ void named_{i}(int* x) {{ *x = {i}; }}'
        cupy.RawKernel(text, f"named_{i}").compile()
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split()[5] for line in lines if "/cudacpu-" in line}
    numbers = [re.fullmatch(r".*/cudacpu-(\d+)-\w{6}", name)[1] for name in loaded]
    assert len(set(numbers)) == len(numbers) >= 3


def test_a_kernel_that_does_not_compile_says_why(cupy):
    broken = cupy.RawKernel('extern "C" __global__ void f(float* x) { x[0] = missing; }', "f")
    with pytest.raises(cupy.cuda.compiler.CompileException, match="missing"):
        broken.compile()


def test_generated_kernels(cupy):
    x = np.arange(6.0)
    scaled = cupy.ElementwiseKernel("T x, T a", "T y", "y = a * x + i", "emulated_scaled")
    squares = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "emulated_squares")

    @cupy.fuse
    def fused(a, b):
        return a * b + a

    device = cupy.asarray(x)
    np.testing.assert_array_equal(cupy.asnumpy(scaled(device, 2.0)), 2 * x + np.arange(6))
    assert float(squares(device)) == 55
    np.testing.assert_array_equal(cupy.asnumpy(fused(device, device)), x * x + x)


def test_streams_and_events(cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        start.record()
        y = cupy.arange(1000.0).sum()
        end.record()
    stream.synchronize()
    assert end.done
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    assert float(y) == 499500
    seen = []
    stream.launch_host_func(seen.append, "called")
    stream.synchronize()
    assert seen == ["called"]


def test_every_thread_has_its_own_current_device(cupy):
    with counters.devices(2):
        seen = []
        with cupy.cuda.Device(1):
            thread = threading.Thread(target=lambda: seen.append(cupy.cuda.Device().id))
            thread.start()
            thread.join()
            assert cupy.cuda.Device().id == 1
        assert seen == [0]


def test_the_memory_pool_gives_blocks_back(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc), counters.counting() as seen:
        x = cupy.empty(1000)
        del x
        x = cupy.empty(1000)
        assert (seen.allocations, pool.used_bytes()) == (1, 8192)
        del x
        free_before = cupy.cuda.runtime.memGetInfo()[0]
        pool.free_all_blocks()
        assert pool.total_bytes() == 0
        assert cupy.cuda.runtime.memGetInfo()[0] == free_before + 8192


def test_a_full_device_refuses_memory(cupy):
    pool = cupy.cuda.MemoryPool()
    free, total = cupy.cuda.runtime.memGetInfo()
    used = total - free
    with cupy.cuda.using_allocator(pool.malloc), counters.memory_limit(used + (1 << 20)):
        x = cupy.zeros(1000)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            cupy.zeros(1 << 20)
        assert float((x + 1).sum()) == 1000  # the device goes on


def test_counters(cupy):
    x = cupy.asarray(np.ones((3, 4)))
    x + x, x @ x.T
    with counters.counting() as seen:
        y = cupy.asarray(np.ones((3, 4)))
        assert (seen.copies_to_device, seen.bytes_to_device) == (1, 96)
        y += x
        assert seen.launches == 1
        y @ x.T
        assert seen.library_calls == 1
        assert seen.copies_to_host == 0
        assert y[0, 0].item() == 2
        assert (seen.copies_to_host, seen.bytes_to_host) == (1, 8)
        assert seen.synchronizations >= 1
        y.get()
        cupy.asnumpy(y, order="F")
        y.get(stream=cupy.cuda.Stream())
    assert seen.copies_to_host == 4
    cupy.asnumpy(y)
    assert seen.copies_to_host == 4  # the block has ended


def test_a_copy_to_the_host_can_be_refused(cupy):
    y = cupy.arange(5.0)
    sizes = []
    with counters.copies_to_host(lambda size: sizes.append(size)):
        for read in (y.get, y.tolist, lambda: float(y[0]), lambda: bool(y[0]), lambda: repr(y)):
            with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="NotPermitted"):
                read()
    assert sizes == [40, 40, 8, 8, 40]
    assert y.get().sum() == 10

    def broken(size):
        raise LookupError("of the guard's own")

    with (
        pytest.raises(LookupError, match="of the guard's own"),
        counters.copies_to_host(broken),
        pytest.raises(cupy.cuda.runtime.CUDARuntimeError),
    ):
        y.get()


def test_managed_memory_is_watched_too(cupy):
    with (
        cupy.cuda.using_allocator(cupy.cuda.malloc_managed),
        counters.counting() as seen,
    ):
        cupy.zeros(3).get()
    assert (seen.allocations, seen.copies_to_host) == (1, 1)


def test_drivers_too_old_and_devices_missing(cupy):
    runtime = cupy.cuda.runtime
    with counters.driver_version(11040):
        assert runtime.driverGetVersion() == 11040
        with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorInsufficientDriver"):
            runtime.getDeviceCount()
    with (
        counters.devices(0),
        pytest.raises(runtime.CUDARuntimeError, match="cudaErrorNoDevice"),
    ):
        runtime.getDeviceCount()
    with counters.devices(3):
        assert runtime.getDeviceCount() == 3
    assert runtime.getDeviceCount() >= 1


REHEARSAL = """
import cupy
try:
    print(cupy.arange(3).sum())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({}, "3"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "cudaErrorNoDevice"),
        ({"CUDACPU_DRIVER_VERSION": "11040"}, "cudaErrorInsufficientDriver"),
        ({"CUDACPU_MEMORY": "100"}, "OutOfMemoryError"),
        ({"CUDACPU_HEADERS": "missing"}, 'cannot open source file "cuda_fp16.h"'),
    ],
    ids=lambda value: next(iter(value), "none") if isinstance(value, dict) else "",
)
def test_processes_may_be_given_a_fault(cupy, monkeypatch, tmp_path, setting, said):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    if "CUDACPU_HEADERS" in setting:
        monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-W", "ignore", "-c", REHEARSAL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said in done.stdout
