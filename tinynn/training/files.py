"""Model files: safetensors, with the model's description and a digest in the metadata.

A file holds the parameters by name, one JSON text that says what they belong to, and the SHA-256
of its own bytes (with the digest's 64 digits read as zeros), so that one changed byte anywhere is
found. Nothing in it is ever run or imported. Any reader of safetensors can read the parameters.

The format: <https://github.com/huggingface/safetensors#format>.
"""

import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from backends import Backend

FORMAT = 1
_ZEROS = "0" * 64
_MARK = b'"sha256":"'

# The standard's real dtypes: their names in safetensors, and in Python's own buffers.
_NAMES = {
    "bool": ("BOOL", "?"),
    "int8": ("I8", "b"),
    "int16": ("I16", "h"),
    "int32": ("I32", "i"),
    "int64": ("I64", "q"),
    "uint8": ("U8", "B"),
    "uint16": ("U16", "H"),
    "uint32": ("U32", "I"),
    "uint64": ("U64", "Q"),
    "float32": ("F32", "f"),
    "float64": ("F64", "d"),
}
_READERS = {  # of what a model is not made of at once
    "checkpoint": "give it to tinynn.load, or go on with fit(..., resume=path)",
    "stack checkpoint": "go on from it with fit_many(..., resume=path)",
}
_BY_SAFETENSORS = {theirs: (ours, code) for ours, (theirs, code) in _NAMES.items()}


class ModelFileError(ValueError):
    """A model file that cannot be read: cut short, edited, or not a model file at all."""


def damaged(path: str | os.PathLike[str], what: str, problem: Exception | str) -> ModelFileError:
    """The error for a file whose digest is right and whose content is not."""
    said = problem if isinstance(problem, str) else f"{type(problem).__name__}: {problem}"
    return ModelFileError(
        f"{path}: expected the content of {what}, got one that is damaged: {said}. To fix it: "
        "save it again, or take another copy."
    )


class Tensor(NamedTuple):
    """One array of a file: the name of its dtype, its shape, and its values in host memory.

    `values` is a buffer of that shape, or None where the shape holds no element.
    """

    dtype: str
    shape: tuple[int, ...]
    values: memoryview | None


def pack(
    tensors: Iterable[tuple[str, Any]], description: dict[str, Any], kind: str = "model"
) -> bytes:
    """The bytes of a file. The same input always gives the same bytes.

    Parameters
    ----------
    kind : what the file holds, "model", "stack" or "checkpoint"
    tensors : names and host arrays (with `dtype.name`, `shape` and `tobytes()`), in order
    description : what JSON can hold

    Raises
    ------
    TypeError : a dtype that the file cannot hold, or a description that JSON cannot

    """
    try:
        text = json.dumps({"format": FORMAT, "kind": kind, **description}, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"save: the model's description and its `extra` are written as JSON, which cannot "
            f"hold this: {error}. Use dicts with text keys, lists, text, numbers, booleans, None."
        ) from error
    header: dict[str, Any] = {"__metadata__": {"tinynn": text, "sha256": _ZEROS}}
    chunks: list[bytes] = []
    end = 0
    for name, array in tensors:
        if array.dtype.name not in _NAMES:
            raise TypeError(
                f"save: parameter {name!r} has dtype {array.dtype.name}; "
                f"a model file holds {', '.join(_NAMES)}. Cast it to one of these."
            )
        chunks.append(array.tobytes())
        start, end = end, end + len(chunks[-1])
        header[name] = {
            "dtype": _NAMES[array.dtype.name][0],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # safetensors wants the data aligned
    blank = b"".join([len(head).to_bytes(8, "little"), head, *chunks])
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(_MARK + _ZEROS.encode(), _MARK + digest, 1)


def unpack(
    blob: bytes, path: str | os.PathLike[str], kind: str | Sequence[str] = "model"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a file's bytes, once the digest has been checked.

    Raises
    ------
    ModelFileError : the bytes are not those that were written; `path` is named

    """
    import safetensors  # for reading alone, and it takes its time

    named, digest = _digests(blob)
    if not named:
        raise ModelFileError(
            f"{path}: expected a model file of tinynn, got {_what(blob)}. "
            "Give the path of a file that Model.save wrote, or save the model again."
        )
    if named != digest:
        raise ModelFileError(
            f"{path}: expected the bytes that Model.save wrote, got {len(blob)} bytes whose "
            "digest is another: the file was cut short or changed. Save or copy it again."
        )
    try:
        deserialize: Any = safetensors.deserialize  # it has no types
        tensors = dict(deserialize(blob))
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + size])
        description = json.loads(header.pop("__metadata__")["tinynn"])
        layout, found = description["format"], description.get("kind")
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        if layout == FORMAT and found in kinds:  # the header has kept the tensors' order
            return {name: _tensor(**tensors[name]) for name in header}, description
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: expected a model file of tinynn, got a file of another make ({error}). "
            "Give the path of a file that Model.save wrote."
        ) from error
    if layout == FORMAT:
        raise ModelFileError(
            f"{path}: expected a {kinds[0]}, got a {found}. To fix it: "
            f"{_READERS.get(found, 'give it to tinynn.load')}."
        )
    raise ModelFileError(
        f"{path}: expected a model file of format {FORMAT}, got format {layout}. "
        "It was written by another version of tinynn: read it with that one."
    )


def _digests(blob: bytes) -> tuple[bytes, bytes]:
    """The digest that a file's bytes name, and the one that they have; empty if none is named."""
    start = blob.find(_MARK) + len(_MARK)
    if start < len(_MARK) or len(blob) < start + 64:
        return b"", b""
    blank = b"".join([blob[:start], _ZEROS.encode(), blob[start + 64 :]])
    return blob[start : start + 64], hashlib.sha256(blank).hexdigest().encode()


def _tensor(dtype: str, shape: list[int], data: bytearray) -> Tensor:
    name, code = _BY_SAFETENSORS[dtype]
    values = memoryview(data).cast(code, tuple(shape)) if data else None  # type: ignore[call-overload]
    return Tensor(name, tuple(shape), values)


def _what(blob: bytes) -> str:
    return f"{len(blob)} bytes without a digest" if blob else "an empty file"


def read(
    path: str | os.PathLike[str], kind: str | Sequence[str] = "model"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of the file at `path`; errors as `unpack`."""
    try:
        blob = Path(path).read_bytes()
    except FileNotFoundError as error:
        message = (
            "expected the path of a file, got one that does not exist. To fix it: check its name"
        )
        raise FileNotFoundError(error.errno, message, str(path)) from None
    return unpack(blob, path, kind)


def values_of(tensor: Tensor, backend: Backend) -> Any:
    """The values of an array of a file, as host data."""
    if tensor.values is not None:
        return tensor.values
    # No elements: nothing for a buffer to hold.
    return backend.to_host(backend.xp.zeros(tensor.shape, device=backend.device))


def write(path: str | os.PathLike[str], blob: bytes | Iterable[bytes], *, keep: int = 1) -> None:
    """Put `blob` at `path` whole or not at all: a crash leaves the old file or the new one.

    The bytes are written to a new file in the same folder, fsynced, and renamed in one step.

    Parameters
    ----------
    path
        The file.
    blob
        The bytes, whole or in parts, each of which is made when those before are written.
    keep
        How many files are kept: this one, and those before it that `earlier` finds. Files of
        higher numbers stay as they are.

    Raises
    ------
    OSError : the folder is missing or full, or may not be written; the old file is as it was

    """
    target = check_target(path)
    _remove_leftovers(target)
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.writelines([blob] if isinstance(blob, bytes) else blob)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # the new file has the permissions of the old one
            shutil.copymode(target, beside)
        if keep > 1 and target.exists():
            _move_up(target, keep)
        os.replace(beside, target)
    except BaseException as error:
        try:
            _unlink(beside)
        except KeyboardInterrupt:  # polars tells one Ctrl-C twice, and impatient people do
            _unlink(beside)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # of a disk that is full
        raise
    _settle(target.parent)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def earlier(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The files that were at `path` before, the newest first, as far as they were kept."""
    target = Path(os.path.realpath(path))
    for number in count(1):
        before = _numbered(target, number)
        if not before.is_file():
            return
        yield before


def is_sound(path: str | os.PathLike[str]) -> bool:
    """True if the file at `path` has the digest that it was written with."""
    try:
        blob = Path(path).read_bytes()
    except OSError:
        return False
    named, digest = _digests(blob)
    return bool(named) and named == digest


def _numbered(target: Path, number: int) -> Path:
    return target.with_name(f"{target.name}.{number}")


def _move_up(target: Path, keep: int) -> None:
    """Give each earlier file the next number, and the file at `target` the first.

    At every moment there is a file at `target`.
    """
    first = _numbered(target, 1)
    if first.is_file() and first.samefile(target):  # a run was killed just before its new file came
        return
    for number in range(keep - 2, 0, -1):
        if _numbered(target, number).is_file():
            os.replace(_numbered(target, number), _numbered(target, number + 1))
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        try:
            os.link(target, beside)
        except OSError:  # a file system without links
            shutil.copy2(target, beside)
        os.replace(beside, first)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def check_target(path: str | os.PathLike[str], at: str = "save") -> Path:
    """The file that `write` would make or replace, symbolic links followed; OSError if it may not.

    Only a regular file is ever replaced: a device, a FIFO or a socket stays what it is. `at` begins
    the message.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(
            f"{at}: expected the path of a file, got the folder {path}. To fix it: add a file name."
        )
    if target.exists() and not target.is_file():
        raise OSError(
            f"{at}: expected the path of a regular file, got {path}, which is a device, FIFO or "
            "socket. To fix it: give another path."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{at}: the folder {target.parent} does not exist. To fix it: make it first, or save "
            "elsewhere."
        )
    return target


def _remove_leftovers(target: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left beside it."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        process = left.name.removeprefix(f".{target.name}.").partition("-")[0]
        if process.isdecimal() and not _is_running(int(process)):
            with suppress(OSError):
                left.unlink()


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere the question would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _settle(folder: Path) -> None:
    """fsync the folder, on systems where one can be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
