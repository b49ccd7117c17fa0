import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import backends
from backends import BackendUnavailable, MixedArrays
from backends.base import Backend
from tests.checks import assert_array, assert_close, assert_equal
from tests.seventh import SEVENTH, seventh_library

ROOT = Path(__file__).parents[1]
SIX = ("numpy", "cupy", "torch", "jax", "dpnp", "array_api_strict")


def python(code, *paths, **settings):
    """Run code in a Python of its own; what it prints."""
    before = f"import sys; sys.path[:0] = {[str(ROOT), *map(str, paths)]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", before + code], capture_output=True, text=True, **settings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Names.


def test_the_six_are_known():
    assert set(SIX) <= set(backends.names())


def test_the_hosts_own_library_is_named_first():
    assert backends.names()[0] == "numpy"


def test_the_repr_is_a_name(backend):
    assert backends.get(repr(backend)) == backend
    assert repr(backend).startswith(f"{backend.name}:")
    assert backends.get(backend) is backend


def test_without_a_device_it_is_the_librarys_own(backend):
    default = backends.get(backend.name)
    assert default == backends.of(default.asarray([1.0]))
    assert default.device == default.xp.empty(0).device


def test_every_device_that_is_listed_works(backend):
    listed = type(backend).devices()
    for name, device in listed.items():
        found = backends.get(f"{backend.name}:{name}")
        assert found.device == device
        assert repr(found) == f"{backend.name}:{name}"
        assert found.to_host(found.asarray([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_equal_backends_are_one_in_a_set(backend):
    again = backends.get(repr(backend))
    assert again == backend
    assert len({again, backend}) == 1
    assert backend != "numpy"


@pytest.mark.only("array_api_strict")
def test_devices_differ(backend):
    first, second = (backends.get(f"array_api_strict:device{i}") for i in (1, 2))
    assert len({first, second}) == 2


def test_an_unknown_library():
    with pytest.raises(BackendUnavailable, match=r"'nonesuch'.*use one of numpy, cupy") as error:
        backends.get("nonesuch:0")
    assert error.value.reason == "no library of that name is known"


def test_an_unknown_device(backend):
    with pytest.raises(BackendUnavailable, match=r"no device 'nonesuch' here.*use") as error:
        backends.get(f"{backend.name}:nonesuch")
    assert backend.name in error.value.fix


@pytest.mark.only("torch", "jax")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99"])
def test_a_cuda_device_that_is_not_there(backend, device):
    if any(name.startswith(("cuda", "gpu")) for name in type(backend).devices()):
        device = "cuda:99"
    with pytest.raises(BackendUnavailable) as error:
        backends.get(f"{backend.name}:{device}")
    assert error.value.reason.startswith(("wrong version: ", "no d", "driver too old"))
    assert error.value.fix


# What is wrong with a library, told apart. Each lies in a folder of its own, ahead of the rest.

WRONG = {
    "not installed": (None, "not installed", "pip install torch"),
    "broken": ("raise OSError('libtorch.so: not found')", "importing it fails: OSError", "--force"),
    "incomplete": ("import nonesuch_part", "it needs nonesuch_part", "pip install nonesuch-part"),
}


@pytest.mark.parametrize("case", WRONG)
def test_why_a_library_cannot_be_used(case, tmp_path):
    source, reason, fix = WRONG[case]
    code = "import sys\n"
    if source is None:
        code += "sys.modules['torch'] = None\n"  # as if it were not there
    else:
        (tmp_path / "torch.py").write_text(source)
        (tmp_path / "array_api_compat").mkdir()
        (tmp_path / "array_api_compat" / "__init__.py").touch()
        (tmp_path / "array_api_compat" / "torch.py").write_text("import torch")
    code += """
import backends
try:
    backends.get("torch:cuda")
except backends.BackendUnavailable as error:
    print(error.reason, error.fix, sep="|")
status = next(status for status in backends.available() if status.name == "torch")
print(status.reason, status.fix, sep="|")
assert not status.usable and status.devices == () and status.default_float == ""
"""
    told, listed = python(code, tmp_path).splitlines()
    assert told == listed
    assert reason in told.split("|")[0]
    assert fix in told.split("|")[1]


def test_a_version_that_is_too_old(tmp_path):
    (tmp_path / "array_api_strict.py").write_text("__version__ = '2.5'")
    code = """
import backends
try:
    backends.get("array_api_strict")
except backends.BackendUnavailable as error:
    print(error)
"""
    told = python(code, tmp_path)
    assert "wrong version: 2.5 is installed, 2.6.1 or newer is needed" in told
    assert "pip install --upgrade array-api-strict" in told


def test_no_device(tmp_path):
    """SYCL without any runtime; where dpnp is not installed, that is what is told."""
    code = "import backends; print(next(s for s in backends.available() if s.name == 'dpnp'))"
    told = python(code, env={"OCL_ICD_FILENAMES": "nonesuch", "ONEAPI_DEVICE_SELECTOR": "cuda:*"})
    assert "no device: SYCL finds" in told or "not installed" in told


def test_available_tells_of_every_library():
    found = {status.name: status for status in backends.available()}
    assert tuple(found) == backends.names()
    assert found["numpy"] == backends.Status(
        "numpy", np.__version__, ("cpu",), True, "", "", "float64"
    )
    for status in found.values():
        assert status.usable == bool(status.devices) == bool(status.default_float)
        assert status.usable != bool(status.reason) == bool(status.fix)


def test_the_library_under_test_is_available(backend):
    status = next(status for status in backends.available() if status.name == backend.name)
    assert status.usable
    assert status.version
    assert status.devices == tuple(type(backend).devices())


def test_importing_backends_imports_no_library_but_numpy():
    code = """
import backends
backends.get("numpy").asarray([1.0]), backends.is_array([1.0]), backends.names()
print(*{name.partition(".")[0] for name in sys.modules})
"""
    others = {*SIX, "array_api_compat", "cupyx", "dpctl", "tinynn"} - {"numpy"}
    assert not others & set(python(code).split())


# A library from outside.


def test_a_seventh_library_registers_and_works(tmp_path):
    (tmp_path / "seventh.py").write_text("import numpy as inner\n__version__ = '3.1'" + SEVENTH)
    (tmp_path / "seventh_backend.py").write_text(
        "import seventh\n"
        "from backends import Backend\n"
        "class Seventh(Backend):\n"
        "    name = 'seventh'\n"
        "    xp = seventh\n"
    )
    information = tmp_path / "seventh_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: seventh-backend\n")
    (information / "entry_points.txt").write_text(
        "[tinynn.backends]\nseventh = seventh_backend:Seventh\n"
    )
    code = """
import backends, numpy as np
from backends import random
assert backends.names()[-1] == "seventh" and "seventh" not in sys.modules
backend = backends.get("seventh")
print(backend, backends.available()[-1])
x = backend.asarray([[1.0, 2.0], [3.0, 4.0]])
assert backends.of(x) == backend and backends.is_array(x) and type(x).__name__ == "Array"
index, more = backend.asarray([1, 1]), backend.asarray([[1.0, 1.0], [2.0, 2.0]])
for y in (backend.scatter_add(x, index, more), backend.erf(x), backend.sigmoid(x),
          backend.logsumexp(x, axis=1)):
    assert type(y) is type(x), y
    print(backend.to_host(y).round(3).tolist())
draws = random.normal(random.key(0, "seventh"), 3, "float64")
known = random.normal(random.key(0, "numpy"), 3, "float64")
assert type(draws) is type(x) and np.array_equal(backend.to_host(draws), known)
"""
    assert python(code, tmp_path).splitlines() == [
        "seventh:cpu Status(name='seventh', version='3.1', devices=('cpu',), usable=True, "
        "reason='', fix='', default_float='float64')",
        "[[1.0, 2.0], [6.0, 7.0]]",
        "[[0.843, 0.995], [1.0, 1.0]]",
        "[[0.731, 0.881], [0.953, 0.982]]",
        "[2.313, 4.313]",
    ]


def test_arrays_of_an_unregistered_library_get_the_defaults(backend, xp):
    library = seventh_library(xp)
    x = library.Array(backend.asarray([0.0, 1.0]))
    found = backends.of(x, x)
    assert type(found).__mro__[1] is Backend
    assert found.device == backend.device
    assert type(found.sigmoid(x)) is library.Array
    assert_close(found.sigmoid(x).value, [0.5, 1.0 / (1.0 + math.exp(-1.0))], backend)
    with pytest.raises(MixedArrays, match="seventh"):
        backends.of(x, x.value)


# Arrays.


def test_of_finds_library_and_device(backend):
    x, y = backend.asarray([1.0]), backend.asarray([1, 2])
    assert backends.of(x) == backends.of(x, y) == backend
    assert type(backends.of(x)) is type(backend)
    assert backends.is_array(x)


def test_of_takes_what_reductions_return(backend, xp):
    assert backends.of(xp.sum(backend.asarray([1.0, 2.0]))) == backend


@pytest.mark.parametrize("thing", [1.0, [1.0], None, "x", np.dtype("int32"), object()])
def test_what_is_no_array(thing):
    assert not backends.is_array(thing)
    with pytest.raises(TypeError, match=f"expected an array, got {type(thing).__name__}"):
        backends.of(thing)
    with pytest.raises(TypeError, match="expected an array, got"):
        backends.of(np.zeros(1), thing)


def test_of_nothing():
    with pytest.raises(TypeError, match="at least one array"):
        backends.of()


def test_a_librarys_own_things_are_no_arrays(backend, xp):
    assert not backends.is_array(xp)
    assert not backends.is_array(backend.default_float)
    assert not backends.is_array(backend)


@pytest.mark.only("array_api_strict", "torch", "jax", "dpnp", "cupy")
def test_two_libraries_do_not_mix(backend):
    with pytest.raises(MixedArrays, match=rf"{backend!r} and numpy:cpu.*asarray"):
        backends.of(backend.asarray([1.0]), np.ones(1))
    with pytest.raises(MixedArrays, match=rf"arrays of numpy:cpu, got an array of {backend!r}"):
        backends.get("numpy").asarray(backend.asarray([1.0]))


@pytest.mark.only("array_api_strict")
def test_two_devices_do_not_mix(backend):
    other = backends.get("array_api_strict:device2")
    with pytest.raises(MixedArrays, match=r"one device, got .*device2"):
        backends.of(backend.asarray([1.0]), other.asarray([1.0]))
    with pytest.raises(MixedArrays, match=r"arrays of .*got an array of"):
        backend.asarray(other.asarray([1.0]))


# Placing and reading back.


def test_python_numbers_take_the_default_dtypes(backend, xp):
    assert_equal(backend.asarray([[1.5, 2.0]]), [[1.5, 2.0]], backend, dtype=backend.default_float)
    whole = backend.asarray([1, 2])
    assert_equal(whole, [1, 2], backend)
    assert whole.dtype == xp.arange(1, device=backend.device).dtype
    assert_equal(backend.asarray([True, False]), [True, False], backend, dtype="bool")
    assert_equal(backend.asarray(2.5), 2.5, backend, shape=())


def test_numpy_arrays_keep_their_dtype_where_it_exists(backend):
    for name in ("float32", "float64", "int8", "int32", "int64", "uint8", "bool"):
        data = np.asarray([[0, 1], [1, 0]], dtype=name)
        kept = name if name in backend.dtypes() else name.replace("64", "32")
        assert_equal(backend.asarray(data), data, backend, dtype=kept)


def test_a_dtype_can_be_asked_for(backend, xp):
    for dtype in ("float32", xp.float32, np.float32, np.dtype("float32")):
        assert_equal(backend.asarray([1, 2], dtype=dtype), [1, 2], backend, dtype="float32")


def test_float64_asked_of_a_device_without_it(backend, xp):
    if "float64" in backend.dtypes():
        assert_equal(backend.asarray([0.1], dtype=xp.float64), [0.1], backend, dtype="float64")
        return
    for dtype in ("float64", xp.float64, np.float64):
        with pytest.raises(TypeError, match=r"dtype .*float64.* does not exist on .*expected"):
            backend.asarray([1.0], dtype=dtype)


def test_an_array_of_the_backend_passes_through(backend):
    x = backend.asarray([1.0, 2.0], dtype="float32")
    again = backend.asarray(x)
    assert again is x or (backend.name == "numpy" and np.shares_memory(again, x))
    assert_equal(backend.asarray(x, dtype="int32"), [1, 2], backend, dtype="int32")


@pytest.mark.only("array_api_strict", "torch", "jax", "dpnp", "cupy")
def test_placing_copies(backend):
    for data in (np.ones(1000), np.broadcast_to(np.ones(1), (1000,))):
        x = backend.asarray(data)
        if data.flags.writeable:
            data[:] = 2.0
        assert_equal(x, np.ones(1000), backend)


@pytest.mark.parametrize(
    "data", [["a", "b"], [None, 1.0], [[1.0], [1.0, 2.0]], [object()], np.asarray(["x"])]
)
def test_data_that_are_not_numbers(backend, data):
    with pytest.raises(TypeError, match="expected numbers"):
        backend.asarray(data)


def test_integers_that_do_not_fit(backend):
    with pytest.raises(OverflowError, match=r"integers from 0 to 300 do not fit in uint8"):
        backend.asarray([0, 300], dtype="uint8")
    if "int64" not in backend.dtypes():
        with pytest.raises(OverflowError, match="do not fit in int32"):
            backend.asarray([2**40])


@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (2, 0, 3)])
def test_there_and_back(backend, shape):
    data = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    host = backend.to_host(backend.asarray(data))
    assert type(host) is np.ndarray
    assert host.dtype == data.dtype
    assert host.shape == shape
    np.testing.assert_array_equal(host, data)


def test_reading_what_views_and_reductions_return(backend, xp):
    x = backend.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert backend.to_host(xp.permute_dims(x, (1, 0))[:1, :]).tolist() == [[1.0, 3.0]]
    assert backend.to_host(xp.sum(x)).tolist() == 10.0
    assert backend.to_host(xp.greater(x, 2.0)).tolist() == [[False, False], [True, True]]


# Dtypes and the device.


def test_dtypes_are_the_devices_own(backend, xp):
    dtypes = backend.dtypes()
    assert {"bool", "int32", "float32"} <= set(dtypes)
    for name, dtype in dtypes.items():
        assert backend.dtype_name(dtype) == backend.dtype_name(name) == name
        assert_array(xp.zeros(2, dtype=dtype, device=backend.device), backend, dtype=name)


def test_the_default_float(backend, xp):
    assert backend.default_float == xp.zeros(1, device=backend.device).dtype
    assert backend.dtype_name(backend.default_float) in ("float32", "float64")


def test_the_device_can_be_waited_for(backend):
    backend.asarray([1.0])
    assert backend.synchronize() is None
    with backend.scope():
        assert backends.of(backend.xp.zeros(3, device=backend.device)) == backend


def test_memory_in_use(backend):
    before = backend.memory_in_use()
    kept = backend.asarray(np.zeros(1_000_000, dtype="float32"))
    after = backend.memory_in_use()
    if before is None:
        assert after is None
    else:
        assert after - before >= 4 * kept.shape[0]


# Under the libraries' own differentiation.


@pytest.mark.only("torch")
def test_tensors_that_require_gradients(backend):
    import torch

    x = torch.tensor([0.5, -1.0], requires_grad=True, device=backend.device)
    index = torch.tensor([1, 1, 0], device=backend.device)
    assert backends.of(x) == backends.of(torch.nn.Parameter(x.detach())) == backend
    y = backend.scatter_add(x, index, backend.sigmoid(x)[index])
    (backend.logsumexp(y) + backend.erf(y).sum()).backward()
    assert bool(torch.isfinite(x.grad).all())
    assert backend.to_host(x).tolist() == [0.5, -1.0]


@pytest.mark.only("jax")
def test_tracers(backend):
    import jax

    constant = backend.asarray([2.0, 3.0])
    index = backend.asarray([1, 1, 0])

    def f(x):
        assert backends.is_array(x)
        assert backends.of(x) == backends.of(x, constant) == backends.of(constant, x) == backend
        y = backend.scatter_add(x, index, backend.sigmoid(x)[index])
        return backend.logsumexp(y) + backend.erf(y * constant).sum()

    x = backend.asarray([0.5, -1.0])
    expected = backend.to_host(jax.grad(f)(x))
    assert np.isfinite(expected).all()
    assert_close(jax.jit(jax.grad(f))(x), expected, backend, rtol=1e-5)
    assert_close(jax.vmap(jax.grad(f))(x[None, :])[0, :], expected, backend, rtol=1e-5)


@pytest.mark.only("dpnp")
def test_dpnp_calls_no_vector_functions_that_wait_with_the_lock(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels are called and not oneMKL's, which may never return: see backends/dpnp.py."""
    import dpnp.backend.extensions.vm._vm_impl as vector_math

    names = [name for name in dir(vector_math) if name.startswith("_mkl_")]
    assert "_mkl_add_to_call" in names
    asked: list[str] = []
    for name in names:
        monkeypatch.setattr(vector_math, name, lambda *_, name=name: bool(asked.append(name)))
    x = backend.asarray([1.0, 4.0])
    assert backend.to_host(backend.xp.sqrt(x) + x * x - 1.0 / x).tolist() == [1.0, 17.75]
    assert asked == []
