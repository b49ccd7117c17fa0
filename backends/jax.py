"""JAX, on its CPU, GPU and TPU devices; also inside its own transformations."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from backends import cuda_driver
from backends import threads as _threads
from backends.base import Array, Backend, Device, Places
from backends.user_code import warn


class JAX(Backend):
    """JAX on one device, or on the devices of a mesh that an array's `NamedSharding` names.

    Of several, `device` is that mesh with all of an array on each: where parameters are.
    """

    name = "jax"
    minimum = "0.4.34"
    xp = jnp
    _dtype_hint = '; 64-bit ones need jax.config.update("jax_enable_x64", True) at the start'

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        platforms = ("cpu", jax.default_backend())
        return {
            cls.device_name(device): device for name in platforms for device in jax.devices(name)
        }

    @classmethod
    def default_device(cls) -> Device:
        chosen = jax.config.jax_default_device
        if chosen is None or isinstance(chosen, str):
            return jax.local_devices(backend=chosen)[0]
        return chosen

    #: The mesh's axes that rows are sharded over; None where they are not.
    rows: Any = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JAX) and self.sharded and other.sharded:
            return bool(self.device.device_set == other.device.device_set)
        return super().__eq__(other)

    __hash__ = Backend.__hash__

    @property
    def sharded(self) -> bool:  # type: ignore[override]
        return isinstance(self.device, Sharding)

    def shard_rows(self, array: Array, axis: int = 0) -> Array:
        if self.rows is None:
            return array
        names = self.rows if isinstance(self.rows, tuple) else (self.rows,)
        parts = math.prod(self.device.mesh.shape[name] for name in names)
        whole = array.shape[axis] % parts == 0  # else each device has all of this batch
        spec = PartitionSpec(*[None] * axis, self.rows) if whole else PartitionSpec()
        return jax.device_put(array, NamedSharding(self.device.mesh, spec))

    def scope(self) -> AbstractContextManager[Any]:
        if self.sharded:
            _check_threads(self.device.device_set)
        return super().scope()

    @classmethod
    def device_name(cls, device: Device) -> str:
        if isinstance(device, Sharding):
            several = sorted(device.device_set, key=lambda each: each.id)
            return f"{several[0].platform}:{','.join(str(each.id) for each in several)}"
        return f"{device.platform}:{device.id}" if isinstance(device, jax.Device) else str(device)

    @classmethod
    def find_device(cls, name: str) -> Device:
        platform, _, index = name.partition(":")
        try:
            return jax.devices(platform)[int(index or 0)]
        except (RuntimeError, IndexError, ValueError):
            return super().find_device(name)

    @classmethod
    def why_missing(cls, name: str) -> tuple[str, str] | None:
        if name.partition(":")[0] not in ("gpu", "cuda") or jax.default_backend() == "gpu":
            return None
        plugins = [n for n in (12, 13) if find_spec(f"jax_cuda{n}_plugin")]
        return cuda_driver.why_jax_has_no_cuda(plugins)

    @classmethod
    def of_array(cls, array: Array) -> Self:
        try:
            device = array.device
        except AttributeError:  # a tracer: it is wherever the arrays that it stands for will be
            return cls(cls.default_device())
        if not isinstance(device, NamedSharding):
            return cls(device)
        found = cls(NamedSharding(device.mesh, PartitionSpec()))
        found.rows = device.spec[0] if len(device.spec) else None
        return found

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def is_concrete(self, array: Array) -> bool:
        return not isinstance(array, jax.core.Tracer)

    def stop_gradient(self, x: Array) -> Array:
        return x if self.is_concrete(x) else jax.lax.stop_gradient(x)

    def synchronize(self) -> None:
        jax.block_until_ready([x for x in jax.live_arrays() if not x.is_deleted()])

    def memory_in_use(self) -> int | None:
        if self.sharded:
            return None
        return (self.device.memory_stats() or {}).get("bytes_in_use")

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)

    def compile(
        self, function: Callable[..., Any], static: Places = (), donated: Places = ()
    ) -> Callable[..., Any]:
        return _jit(function, static, donated)

    def repeat(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def loop(kept: Any, batches: Any, turns: int) -> Any:
            def once(kept: Any, _: None) -> Any:
                return jax.lax.scan(step, kept, batches)

            if turns == 1:
                return once(kept, None)
            kept, outs = jax.lax.scan(once, kept, None, turns)
            return kept, outs.reshape(-1, *outs.shape[2:])

        return jax.jit(loop, static_argnums=2, donate_argnums=0)

    def example(self, function: Callable[..., Any], *args: Any) -> Any:
        """Zeros like a result, found by tracing; XLA would compile each call that is carried out.

        Arguments that are no arrays are taken as they are. None for results of a weak dtype.
        """
        arrays = [a for a in args if isinstance(a, jax.Array)]

        def call(*given: Any) -> Any:
            rest = iter(given)
            return function(*[next(rest) if isinstance(a, jax.Array) else a for a in args])

        found = jax.eval_shape(call, *arrays)
        if any(getattr(each, "weak_type", False) for each in jax.tree.leaves(found)):
            return None
        return jax.tree.map(
            lambda each: jax.device_put(np.zeros(each.shape, each.dtype), self.device), found
        )

    def joined(self, parts: Sequence[Array]) -> Array:
        if len(parts) == 1:
            return parts[0]
        # On the host: XLA would compile it for each number of parts.
        return jax.device_put(np.concatenate([self.to_host(part) for part in parts]), self.device)

    def scan(
        self,
        step: Callable[..., Any],
        carry: Sequence[Array],
        xs: Sequence[Array],
        length: int,
        reverse: bool,
    ) -> Any:
        if all(map(self.is_concrete, [*carry, *xs])):  # it would be compiled for this call alone
            return super().scan(step, carry, xs, length, reverse)

        def once(carry: Any, x: Any) -> Any:
            return step(carry, x)

        return jax.lax.scan(once, list(carry), list(xs), length, reverse)

    def cond(
        self,
        predicate: Array,
        then: Callable[..., Any],
        otherwise: Callable[..., Any],
        operands: Sequence[Array],
    ) -> Any:
        if self.is_concrete(predicate):
            return super().cond(predicate, then, otherwise, operands)
        return jax.lax.cond(predicate, then, otherwise, *operands)

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        return x.at[(slice(None),) * axis + (indices,)].add(updates)

    def dynamic_slice(self, x: Array, start: Array, *, size: int, axis: int = 0) -> Array:
        start = jax.numpy.maximum(start, 0)  # JAX would count from the end
        return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    def dynamic_update_slice(
        self, x: Array, update: Array, start: Array, *, axis: int = 0
    ) -> Array:
        start = jax.numpy.maximum(start, 0)
        return jax.lax.dynamic_update_slice_in_dim(x, update, start, axis)

    def conv(self, x: Array, weight: Array, **settings: Any) -> Array:
        letters = "XYZ"[: x.ndim - 2]
        return jax.lax.conv_general_dilated(
            x, weight, settings["stride"], settings["padding"], settings["input_dilation"],
            settings["dilation"], (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            settings["groups"], precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip

    def erf(self, x: Array) -> Array:
        return jax.scipy.special.erf(x)

    def sigmoid(self, x: Array) -> Array:
        return jax.nn.sigmoid(x)

    def logsumexp(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return jax.nn.logsumexp(x, axis=axis, keepdims=keepdims)


_jit = lru_cache(
    lambda function, static, donated: jax.jit(
        function, static_argnums=static, donate_argnums=donated
    )
)


def _check_threads(devices: set[Any]) -> None:
    """Warn of devices of the host that may wait for each other until XLA ends the process.

    A sum over devices blocks a thread of XLA's for each; with no others, what one of them waits
    for is never begun, once several programs are under way.
    """
    if next(iter(devices)).platform != "cpu":
        return
    said = [os.environ.get(name, "") for name in ("PJRT_NPROC", "NPROC")]  # as XLA reads them
    threads = next((int(text) for text in said if text.isdecimal()), _threads.processors())
    if threads < 2 * len(devices):
        warn(
            f"expected 2 threads of XLA or more for each of {len(devices)} devices of the host, "
            f"got {threads} in all: devices may wait for each other until XLA ends the process. To "
            f'fix it: set os.environ["PJRT_NPROC"] = "{2 * len(devices)}" before JAX starts',
        )
