"""dpnp: Intel's NumPy on SYCL devices, the CPU among them."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

# The OpenCL runtime for CPUs comes in dpnp's own wheels, but in a virtual environment the loader
# does not look there. It reads this variable once, when SYCL is first loaded.
_RUNTIME = Path(sys.prefix, "lib", "libintelocl.so")
if _RUNTIME.exists():
    os.environ.setdefault("OCL_ICD_FILENAMES", str(_RUNTIME))

import dpnp  # noqa: E402, I001
import dpctl  # noqa: E402
import dpnp.scipy.special  # noqa: E402

from backends import dpnp_random  # noqa: E402
from backends.base import Array, Backend, BackendUnavailable, Device  # noqa: E402
from backends.namespace import Namespace  # noqa: E402

with suppress(ImportError):
    import dpnp.backend.extensions.vm._vm_impl as _vector_math

    # On the CPU oneMKL's vector functions wait for what comes before them while they hold Python's
    # lock, which that may be waiting for: now and then a program stops for good (seen in 0.20.0,
    # in `add`; IntelPython/dpnp#3027 fixes the like in its BLAS). dpnp's own kernels do the same
    # work, and do not wait.
    #
    # A private function is replaced since there is no public way: the choice is made in each call,
    # by closures in dpnp_algo/dpnp_elementwise_common.py that ask this function and then the queue
    # and the arrays' types; no environment variable, option or argument is asked, and the answer is
    # compiled in. `dpnp.tensor` has the kernels alone, but the operators of arrays and dpnp's own
    # reductions do not go through a namespace of ours. tests/test_backends.py says if a release
    # asks in another way.
    _vector_math._is_available = lambda: False


def _in_order(x: Array) -> Array:
    """`x`, copied where an axis repeats its elements or runs backwards."""
    steps = getattr(x, "strides", ())
    return dpnp.copy(x, order="C") if steps and min(steps) <= 0 else x


def matmul(x1: Array, x2: Array, /, **kwargs: Any) -> Array:
    """dpnp's own refuses broadcast views, or reads past them and gives wrong numbers (0.20.0)."""
    return dpnp.matmul(_in_order(x1), _in_order(x2), **kwargs)


def tensordot(x1: Array, x2: Array, /, **kwargs: Any) -> Array:
    """As matmul, which it is made of."""
    return dpnp.tensordot(_in_order(x1), _in_order(x2), **kwargs)


def where(condition: Array, x1: Array, x2: Array, /) -> Array:
    """dpnp's own returns uninitialised memory for a number and two flipped arrays (0.20.0)."""
    return dpnp.where(_in_order(condition), x1, x2)


_products = {"matmul": matmul, "tensordot": tensordot}


class DPNP(Backend):
    """dpnp on one SYCL device."""

    name = "dpnp"
    minimum = "0.19"
    xp = Namespace(
        "dpnp",
        dpnp,
        _products | {"where": where, "linalg": Namespace("dpnp.linalg", dpnp.linalg, _products)},
    )

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        found = [_device(device.filter_string) for device in dpctl.get_devices()]
        if not found:
            raise BackendUnavailable(
                "dpnp",
                "no device: SYCL finds neither a GPU nor an OpenCL runtime for the CPU",
                "pip install intel-opencl-rt (CPU), or install the GPU's driver",
            )
        return {cls.device_name(device): device for device in found}

    @classmethod
    def default_device(cls) -> Device:
        cls.devices()
        return dpnp.empty(0).device

    @classmethod
    def device_name(cls, device: Device) -> str:
        return str(device.sycl_device.get_filter_string(include_backend=False))

    @classmethod
    def find_device(cls, name: str) -> Device:
        try:
            return _device(name)
        except dpctl.SyclDeviceCreationError:
            return super().find_device(name)

    def compute_dtypes(self) -> Mapping[str, Any]:
        found = dict(super().compute_dtypes())
        if not self.device.sycl_device.has_aspect_fp16:
            found.pop("float16", None)
        return found

    def to_host(self, array: Array) -> np.ndarray:
        return dpnp.asnumpy(array)

    def synchronize(self) -> None:
        self.device.wait()

    def threefry(self, key: Array, x0: Array, x1: Array) -> tuple[Array, Array] | None:
        if not all(isinstance(a, dpnp.ndarray) for a in (key, x0, x1)):  # they are being recorded
            return None
        return dpnp_random.threefry(key, x0, x1)

    def erf(self, x: Array) -> Array:
        # Of float16 dpnp makes float32.
        return dpnp.astype(dpnp.scipy.special.erf(x), x.dtype, copy=False)

    def sigmoid(self, x: Array) -> Array:
        return dpnp.reciprocal(dpnp.exp(-x) + 1.0)  # exp(-x) = inf gives the right answer, 0

    def logsumexp(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return dpnp.logsumexp(x, axis=axis, keepdims=keepdims)


def _device(name: str) -> Device:
    """By SYCL filter: "cpu", "gpu:0", "level_zero:gpu"."""
    return dpnp.empty(0, device=name).device
