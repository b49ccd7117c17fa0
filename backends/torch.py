"""PyTorch, on the CPU and on whatever accelerator it has: CUDA, MPS, XPU."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch

from backends import cuda_driver, memory, torch_convolution, torch_functions
from backends.base import Array, Backend, BackendUnavailable, Device
from backends.convolution import Settings
from backends.lowering import LoopCompiler
from backends.torch_lowering import LOWERING
from backends.torch_pooling import TorchPooling


class Torch(TorchPooling, Backend):
    """PyTorch on one device."""

    name = "torch"
    minimum = "2.6"
    xp = xp
    lowering = LOWERING

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        found = ["cpu"]
        if torch.accelerator.is_available():
            kind = torch.accelerator.current_accelerator().type
            found += [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
        return {name: torch.device(name) for name in found}

    @classmethod
    def why_missing(cls, name: str) -> tuple[str, str] | None:
        if not name.startswith("cuda") or torch.cuda.is_available():
            return None
        return cuda_driver.why_torch_has_no_cuda(torch.__version__, torch.version.cuda)

    def _place(self, data: np.ndarray, dtype: Any) -> Array:
        return torch.tensor(data, dtype=dtype, device=self.device)

    def host_buffer(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if self.device.type != "cuda" or dtype not in self.dtypes():
            return super().host_buffer(shape, dtype)
        return torch.empty(shape, dtype=self.dtypes()[dtype], pin_memory=True).numpy()

    def adopt(self, buffer: np.ndarray) -> Array:
        if self.device.type not in ("cpu", "cuda") or buffer.dtype.name not in self.dtypes():
            return super().adopt(buffer)
        # What is page-locked stays so, in PyTorch's own keeping, until the copy is done.
        return torch.from_numpy(buffer).to(self.device, non_blocking=True)

    def to_host(self, array: Array) -> np.ndarray:
        return array.detach().cpu().resolve_conj().resolve_neg().numpy()

    def is_concrete(self, array: Array) -> bool:
        if torch.compiler.is_compiling():
            return False
        try:  # PyTorch has no public word for an array inside torch.func
            wrapped = torch._C._functorch.is_functorch_wrapped_tensor(array)
        except (AttributeError, TypeError):
            wrapped = False
        return not wrapped

    def native(self) -> LoopCompiler | None:
        if self.device.type != "cpu":
            return None
        if find_spec("llvmlite") is None:
            reason = "compiling loops needs llvmlite, which is not installed"
            raise BackendUnavailable("torch", reason, "pip install tinynn-xp[loops]")
        from backends.torch_loops import loops

        return loops(self.to_host)

    def synchronize(self) -> None:
        if self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(self.device)

    def memory_in_use(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return None

    def memory_size(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return super().memory_size()

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        return isinstance(error, MemoryError | torch.OutOfMemoryError)

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        return torch.index_add(x, axis, indices, updates)

    def memory_of(self, x: Array) -> int:
        return int(x.untyped_storage().data_ptr())

    def shares_memory(self, x: Array, y: Array) -> bool:
        return memory.overlap(*(_span(a) for a in (x, y)))

    def writable(self, x: Array) -> Array:
        return x.clone() if memory.repeats(x.shape, x.stride()) else x

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()

    def dynamic_slice(self, x: Array, start: Array, *, size: int, axis: int = 0) -> Array:
        return torch_functions.dynamic_slice(x, start, size, axis)

    def dynamic_update_slice(
        self, x: Array, update: Array, start: Array, *, axis: int = 0
    ) -> Array:
        return torch_functions.dynamic_update_slice(x, update, start, axis)

    def conv(self, x: Array, weight: Array, **settings: Any) -> Array:
        return torch_convolution.conv(x, weight, Settings(**settings))

    def erf(self, x: Array) -> Array:
        return torch.special.erf(x)

    def sigmoid(self, x: Array) -> Array:
        return torch.sigmoid(x)

    def logsumexp(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)


def _span(x: Array) -> range:
    strides = [step * x.itemsize for step in x.stride()]
    return memory.span(x.data_ptr(), x.shape, strides, x.itemsize)
