"""Backend: one array library on one device, and the few things that the standard lacks.

Every method has a default written in the standard, so a new library works at once; a library's
own file overrides what the library does faster or differently.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from backends import convolution, special
from backends.lowering import LoopCompiler, Lowering
from backends.memory import Memory
from backends.pooling import Pooling
from backends.slicing import Slicing
from backends.staging import Staging

Array = Any  # an array of any library
DType = Any
Device = Any
Places = tuple[int, ...]
F = TypeVar("F", bound=Callable[..., Any])


class BackendUnavailable(RuntimeError):
    """A library or device that cannot be used here: `reason` says why, `fix` what to do."""

    def __init__(self, what: str, reason: str, fix: str) -> None:
        super().__init__(f"backend {what!r} cannot be used: {reason}. To fix it: {fix}")
        self.what, self.reason, self.fix = what, reason, fix


class MixedArrays(ValueError):
    """Arrays of different libraries or devices were given where one backend was expected."""


class Advice(NamedTuple):
    """Advice that would make a library faster on this machine.

    Attributes
    ----------
    text
        What to do, for a person.
    environment
        The variables to set before Python starts.
    probe
        A Python program that prints how many seconds something typical takes.
    """

    text: str
    environment: Mapping[str, str]
    probe: str


class Backend(Memory, Pooling, Slicing, Staging):
    """An array library and one of its devices.

    Get one by name (`backends.get("torch:cpu")`) or from arrays (`backends.of(x)`). A subclass
    names its library's namespace as `xp`; the entry-point group "tinynn.backends" registers it
    under the library's import name.

    >>> import backends
    >>> backend = backends.get("numpy")
    >>> backend
    numpy:cpu
    >>> x = backend.asarray([[1, 2], [3, 4]], dtype="float32")
    >>> backend.to_host(backend.logsumexp(x, axis=1)).round(3)
    array([2.313, 4.313], dtype=float32)
    """

    name: ClassVar[str] = ""  # the library's import name
    minimum: ClassVar[str] = ""  # the oldest version that works
    lowering: ClassVar[Lowering | None] = None  # how compiled programs speak to it
    #: `find(x)`: the backend of an array of any library; None if it is not an array. The registry,
    #: which knows every library, puts it here.
    find: ClassVar[Callable[[object], "Backend | None"]]
    needs_scope: ClassVar[bool] = False  # operators ignore the device of their arrays
    sharded: bool = False  # it stands for several devices, over which the rows of data lie

    def __init__(self, device: Device, xp: Any = None) -> None:
        """Any namespace of the standard works; subclasses know theirs, so leave `xp` out there."""
        self.device = device
        self.xp = self.xp if xp is None else xp

    def __repr__(self) -> str:
        library = self.name or getattr(self.xp, "__name__", repr(self.xp))
        return f"{library}:{self.device_name(self.device)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Backend):
            return NotImplemented
        return self is other or (self.xp == other.xp and self.device == other.device)

    def __hash__(self) -> int:
        return hash(self.xp)  # not the device: CuPy's cannot be hashed

    # Finding: what `backends.get` and `backends.of` ask of a library.

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        """The devices that can be used now, by name; BackendUnavailable without a driver."""
        found = cls.xp.__array_namespace_info__().devices()
        return {cls.device_name(device): device for device in found if device is not None}

    @classmethod
    def default_device(cls) -> Device:
        """The device of `get("library")`."""
        default = cls.xp.__array_namespace_info__().default_device()
        return next(iter(cls.devices().values())) if default is None else default

    @classmethod
    def device_name(cls, device: Device) -> str:
        """The name of a device, as `get` understands it after the colon."""
        return str(device)

    @classmethod
    def find_device(cls, name: str) -> Device:
        """The device of that name; "cuda" is short for "cuda:0"."""
        devices = cls.devices()
        for spelling in (name, f"{name}:0"):
            if spelling in devices:
                return devices[spelling]
        known = ", ".join(f"{cls.name}:{device}" for device in devices)
        reason, fix = cls.why_missing(name) or (f"no device {name!r} here", f"use {known}")
        raise BackendUnavailable(f"{cls.name}:{name}", reason, fix)

    @classmethod
    def why_missing(cls, name: str) -> tuple[str, str] | None:
        """The reason why a device of this library is not here, and the command that fixes it."""
        return None

    @classmethod
    def of_array(cls, array: Array) -> Self:
        """The backend of one of the library's arrays."""
        return cls(array.device)

    @classmethod
    def rejection(cls, kind: type) -> str:
        """The reason why arrays of that type, although the library's, are not taken.

        "" for all others: for every type that keeps to the standard.
        """
        return ""

    @classmethod
    def advice(cls) -> Advice | None:
        """A setting that would make the library faster here, if one is known."""
        return None

    # Moving data between the host and the device.

    def asarray(self, host: Any, dtype: DType | str | None = None) -> Array:
        """Host data (a NumPy array, a scalar, nested lists) as an array on this device.

        dtype: one of the library's, or a name. Without it Python floats and integers become the
        device's defaults; a NumPy array keeps its dtype, or takes the default of its kind where
        the device lacks it. An array of this backend passes through.

        Raises MixedArrays for an array of another library or device, TypeError for data that are
        not numbers (or hide some, as masked arrays do) or a dtype that this device lacks,
        OverflowError for integers that do not fit.

        >>> import backends
        >>> backends.get("numpy").asarray([1, 2], dtype="float32")
        array([1., 2.], dtype=float32)
        """
        if dtype is not None:
            dtype = self.dtypes()[self.dtype_name(dtype)]
        source = Backend.find(host)
        if source is not None and not isinstance(host, (np.ndarray, np.generic)):
            if source != self:
                raise MixedArrays(
                    f"asarray takes host data or arrays of {self}, got an array of {source}; "
                    "read it back first, with backends.of(x).to_host(x)"
                )
            same = dtype is None or host.dtype == dtype
            return host if same else self.xp.astype(host, dtype)
        data = self._numbers(host)
        if dtype is None:
            dtype = self._kept_dtype(data, python=not isinstance(host, (np.ndarray, np.generic)))
        return self._place(_converted(data, self.dtype_name(dtype)), dtype)

    def _place(self, data: np.ndarray, dtype: DType) -> Array:
        """`data`, already of that dtype, on this device: a copy, so later writes do not show."""
        return self.xp.asarray(data, dtype=dtype, device=self.device, copy=True)

    def to_host(self, array: Array) -> np.ndarray:
        """The array as a NumPy array: the one explicit way back. Treat it as read-only.

        >>> import backends
        >>> backends.get("numpy").to_host(backends.get("numpy").asarray([1.0, 2.0]))
        array([1., 2.])
        """
        return np.from_dlpack(array, device="cpu")

    @staticmethod
    def _numbers(host: Any) -> np.ndarray:
        try:
            data = np.asarray(host)
        except ValueError as error:
            raise TypeError(f"expected numbers in rows of equal length: {error}") from error
        if data.dtype.kind not in "biufc":
            raise TypeError(
                f"expected numbers, got {type(host).__name__} of dtype {data.dtype}; "
                "encode text and categories as numbers first, and drop or fill what is missing"
            )
        return data

    def _kept_dtype(self, data: np.ndarray, python: bool) -> DType:
        """The dtype here for host data: its own, or the default of its kind."""
        here = self.dtypes()
        name = data.dtype.name
        if name in here and (not python or data.dtype.kind == "b"):
            return here[name]
        kinds = {"f": "real floating", "c": "complex floating"}
        defaults = self.xp.__array_namespace_info__().default_dtypes(device=self.device)
        return defaults[kinds.get(data.dtype.kind, "integral")]

    # Data types.

    def dtypes(self) -> Mapping[str, DType]:
        """The dtypes that exist on this device, by name.

        >>> import backends
        >>> "float64" in backends.get("numpy").dtypes()
        True
        """
        found: Mapping[str, DType] = self.xp.__array_namespace_info__().dtypes(device=self.device)
        return found

    def compute_dtypes(self) -> Mapping[str, DType]:
        """The floating-point dtypes that can be computed in here, by name.

        These are the standard's, and float16 and bfloat16 where the library has them.

        >>> import backends
        >>> sorted(backends.get("numpy").compute_dtypes())
        ['float16', 'float32', 'float64']
        """
        found = {n: dtype for n, dtype in self.dtypes().items() if n.startswith("float")}
        halves = {name: getattr(self.xp, name, None) for name in ("float16", "bfloat16")}
        return found | {name: dtype for name, dtype in halves.items() if dtype is not None}

    def compute_dtype(self, dtype: DType | str) -> DType:
        """One of `compute_dtypes`, by its name or as it is; TypeError if it does not exist here."""
        here = self.compute_dtypes()
        for name, known in here.items():
            if name == dtype if isinstance(dtype, str) else known == dtype:
                return known
        raise TypeError(
            f"dtype {dtype} cannot be computed in on {self}; expected one of "
            f"{', '.join(sorted(here))}{self._dtype_hint}"
        )

    @property
    def default_float(self) -> DType:
        """The dtype that the library gives Python floats on this device."""
        info = self.xp.__array_namespace_info__()
        return info.default_dtypes(device=self.device)["real floating"]

    def dtype_name(self, dtype: DType | str) -> str:
        """The standard's name of a dtype; TypeError if this device lacks it.

        >>> import backends
        >>> backends.get("numpy").dtype_name(np.dtype("float32"))
        'float32'
        """
        scalar = isinstance(dtype, type) and issubclass(dtype, np.generic)
        if scalar or isinstance(dtype, np.dtype):
            dtype = np.dtype(dtype).name  # NumPy's own name them well for any library
        here = self.dtypes()
        for name, known in here.items():
            if name == dtype if isinstance(dtype, str) else known == dtype:
                return name
        raise TypeError(
            f"dtype {dtype} does not exist on {self}; expected one of {', '.join(sorted(here))}"
            f"{self._dtype_hint}"
        )

    _dtype_hint: ClassVar[str] = ""  # how to get a missing dtype, where there is a way

    # The device.

    def synchronize(self) -> None:
        """Wait until the device has finished what was asked of it."""

    def scope(self) -> AbstractContextManager[Any]:
        """A context in which functions that take no device work on this one."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[Any]:
        """A context in which the library does not warn of overflow and the like."""
        return nullcontext()

    def is_concrete(self, array: Array) -> bool:
        """True if the array has values to read: not while the library traces a function."""
        return True

    def shard_rows(self, array: Array, axis: int = 0) -> Array:
        """The array with the rows of a batch, along an axis, over the devices of data like X."""
        return array

    def scoped(self, function: F) -> F:
        """`function`, always run in `scope`."""
        return function

    def memory_in_use(self) -> int | None:
        """Bytes that arrays hold on this device; None where the library does not say."""
        return None

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        """True if the library says by this error that the device's memory does not suffice."""
        return isinstance(error, MemoryError)

    def compile(
        self, function: Callable[..., Any], static: Places = (), donated: Places = ()
    ) -> Callable[..., Any]:
        """A function of arrays as the library's own compiler makes it; without one, as it is.

        static: the positions of arguments that are no arrays: hashable, and for each value there
        is one compilation, as for each shape and dtype. donated: those of arrays whose memory
        results may take. Integers come out the same; * may be fused with +, which rounds once.

        >>> import backends, numpy as np
        >>> backends.get("numpy").compile(lambda x, n: x * n, static=(1,))(np.asarray([1, 2]), 3)
        array([3, 6])
        """
        return function

    #: `repeat(step)`, where the library compiles whole loops: `(kept, batches, turns) -> (kept,
    #: outs)` goes through the batches so many times, with `step(kept, batch) -> (kept, out)`. It
    #: uses `kept` up, is compiled for `turns`, and batches are arrays of an entry a step.
    repeat: Callable[..., Any] | None = None
    #: `example(function, *args)`: zeros like its result, where that needs no computing; or None.
    example: Callable[..., Any] | None = None

    def threefry(self, key: Array, x0: Array, x1: Array) -> tuple[Array, Array] | None:
        """The block cipher of `backends.random` by a kernel of the library's; None without one.

        key: (2,) int32; x0, x1: (n,) int32, the counters. Otherwise it is 100 calls, or launches.
        """
        return None

    def native(self) -> LoopCompiler | None:
        """The compiler of explicit loops for this library's arrays; None where there is none.

        Raises BackendUnavailable if there would be one, were it installed.
        """
        return None

    # Control flow, which `tinynn.scan` and `tinynn.cond` record as calls.

    def scan(
        self,
        step: Callable[[Sequence[Array], Sequence[Array]], tuple[list[Array], list[Array]]],
        carry: Sequence[Array],
        xs: Sequence[Array],
        length: int,
        reverse: bool,
    ) -> tuple[Sequence[Array], list[Array]]:
        """Repeat `step(carry, x)`, which gives `(carry, y)`, over the entries of `xs`.

        carry: arrays; xs: (length, ...) each, length > 0. The result is the last carry, and the
        y of every step, (length, ...) each, in the order of xs.
        """
        rows: list[list[Array]] = []
        for place in reversed(range(length)) if reverse else range(length):
            carry, y = step(carry, [x[place, ...] for x in xs])
            rows.append(y)
        rows = rows[::-1] if reverse else rows
        return carry, [self.xp.stack(column) for column in zip(*rows, strict=True)]

    def cond(
        self,
        predicate: Array,
        then: Callable[..., list[Array]],
        otherwise: Callable[..., list[Array]],
        operands: Sequence[Array],
    ) -> Sequence[Array]:
        """`then(*operands)` if the 0-d predicate is true, else `otherwise(*operands)`.

        The program waits for the predicate's value.
        """
        return then(*operands) if bool(predicate) else otherwise(*operands)

    # Functions that the standard lacks.

    def scatter_add(self, x: Array, indices: Array, updates: Array, *, axis: int = 0) -> Array:
        """`x` with `updates` added at `indices` along `axis`; duplicate indices accumulate.

        x: (..., n, ...), indices: (k,) integers from -n to n - 1, updates: (..., k, ...) of x's
        dtype. `x` itself is not changed.

        >>> import backends, numpy as np
        >>> x, i = np.zeros(3), np.asarray([0, 2, 2])
        >>> backends.of(x).scatter_add(x, i, np.asarray([1.0, 2.0, 3.0]))
        array([1., 0., 5.])
        """
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"scatter_add: axis {axis} is out of range for shape {tuple(x.shape)}")
        axis %= x.ndim
        if indices.ndim != 1:
            raise ValueError(f"scatter_add: expected 1-D indices, got shape {tuple(indices.shape)}")
        expected = (*x.shape[:axis], indices.shape[0], *x.shape[axis + 1 :])
        if tuple(updates.shape) != expected:
            raise ValueError(
                f"scatter_add: expected updates of shape {expected}, got {tuple(updates.shape)}"
            )
        if updates.dtype != x.dtype:
            raise TypeError(
                f"scatter_add: expected updates of dtype {x.dtype}, got {updates.dtype}; cast them"
            )
        if indices.shape[0] == 0:
            return x
        if self.xp.isdtype(indices.dtype, "signed integer"):  # not all count from the end
            indices = self.xp.where(indices < 0, indices + x.shape[axis], indices)
        return self._scatter_add(x, indices, updates, axis)

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        """Sort by index, sum each run of equal indices by doubling, give each row its run's sum.

        Exact additions and no products with zeros, so infinities stay where they belong.
        """
        xp, rows, count = self.xp, x.shape[axis], indices.shape[0]
        order = xp.argsort(indices, stable=True)
        index = xp.take(indices, order)
        sums = xp.take(updates, order, axis=axis)
        column = (1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)
        place = xp.arange(count, dtype=index.dtype, device=self.device)
        step = 1
        while step < count:  # after each turn sums[i] covers the last 2 * step of i's own run
            before = xp.where(place < step, place, place - step)
            same = (place >= step) & (xp.take(index, before) == index)
            added = xp.take(sums, before, axis=axis)
            nothing = xp.zeros_like(added)
            sums = sums + xp.where(xp.reshape(same, column), added, nothing)
            step *= 2
        row = xp.arange(rows, dtype=index.dtype, device=self.device)
        last = xp.searchsorted(index, row, side="right") - 1
        last = xp.where(last < 0, xp.zeros_like(last), last)
        hit = xp.reshape(xp.take(index, last) == row, column)
        total = xp.take(sums, last, axis=axis)
        return x + xp.where(hit, total, xp.zeros_like(total))

    def conv(self, x: Array, weight: Array, **settings: Any) -> Array:
        """The convolution of `backends.convolution.conv`, with all its settings."""
        return convolution.conv(self.xp, x, weight, convolution.Settings(**settings))

    def erf(self, x: Array) -> Array:
        """The error function of real floating `x`.

        >>> import backends, numpy as np
        >>> backends.of(np.ones(1)).erf(np.ones(1)).round(6)
        array([0.842701])
        """
        return special.erf(x, self.xp)

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), without overflow and exact to rounding for every x.

        >>> import backends, numpy as np
        >>> backends.of(np.ones(1)).sigmoid(np.asarray([-1000.0, 0.0, 1000.0]))
        array([0. , 0.5, 1. ])
        """
        xp = self.xp
        small = xp.exp(-xp.abs(x))  # never above 1
        return xp.where(x >= 0, xp.ones_like(x), small) / (1.0 + small)

    def logsumexp(
        self, x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
    ) -> Array:
        """log(sum(exp(x))) over `axis`, without overflow.

        >>> import backends, numpy as np
        >>> backends.of(np.ones(1)).logsumexp(np.asarray([1000.0, 1000.0])).round(3)
        np.float64(1000.693)
        """
        xp = self.xp
        peak = xp.max(x, axis=axis, keepdims=True)
        shift = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
        total = xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)
        # The sum is 0 only where every x is -inf, and then the peak says so without log(0).
        total = xp.log(xp.where(total > 0.0, total, xp.ones_like(total))) + peak
        axes = tuple(range(x.ndim)) if axis is None else axis
        return total if keepdims else xp.squeeze(total, axis=axes)


def _converted(data: np.ndarray, name: str) -> np.ndarray:
    """Host data in the dtype of that name; integers must survive the change."""
    if data.dtype.name == name:
        return data
    converted = data.astype(name)
    integers = data.dtype.kind in "iu" and converted.dtype.kind in "iu"
    if integers and not np.array_equal(converted, data):
        low, high = data.min(), data.max()
        raise OverflowError(f"integers from {low} to {high} do not fit in {name}; scale them down")
    return converted
