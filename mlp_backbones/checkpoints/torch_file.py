"""Reading files of ``torch.save``: tensors and plain data, and nothing else.

The same reader serves every torch. ``torch.load(weights_only=True)`` does not: before
torch 2.5 it admits no further classes, after that it admits them for the whole process;
it calls torch's own functions with whatever arguments a file brings; and it does not
notice damaged bytes.

A pickle is a small program. Here it runs on a machine that knows the instructions for
plain data only. What a file names is looked up in a table of this module, never
imported, and nothing but the functions of that table can be called. They check their
arguments and build new objects.
"""

import argparse
import io
import math
import pickletools
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "CheckpointError",
    "DamagedFileError",
    "History",
    "NotPlainDataError",
    "read_torch_file",
]

CHUNK = 1 << 22  # bytes; a tensor is filled by so many at a time
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
NUMPY_KINDS = "biufcSU"

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}


class CheckpointError(ValueError):
    """A file of weights that cannot be read or does not belong to the model."""


class DamagedFileError(ValueError):
    """Bytes that are no file of ``torch.save``, or no longer one."""


class NotPlainDataError(ValueError):
    """A file that asks for more than tensors and plain data."""


class History(dict[str, Any]):
    """What a history of MMEngine holds: two arrays and their greatest length."""


def read_torch_file(source: Path | IO[bytes], *, tensors: bool = True) -> Any:
    """Read a file of ``torch.save``, in today's format or that before torch 1.6.

    Args:
        source: The file, or its bytes as a stream that can be sought.
        tensors: Read the values of tensors; without them a file in today's format is
            read in no time, and its tensors are on the meta device.

    Returns:
        Its content with all tensors on the CPU. In place of configurations stand
        objects without content, in place of histories their arrays.

    Raises:
        NotPlainDataError: If the file asks for anything but tensors and plain data.
        DamagedFileError: If it is damaged or no such file.
        OSError: If it cannot be read.
    """
    with source.open("rb") if isinstance(source, Path) else source as file:
        try:
            if file.read(4) == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    return _read_archive(archive, tensors)
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _read_legacy(file, size)
        except (NotPlainDataError, OSError):
            raise
        # whatever the fault of the bytes, it surfaces where they first make no sense
        except Exception as error:
            raise DamagedFileError(str(error) or type(error).__name__) from error


# ---------------------------------------------------------------------- the formats


@dataclass
class _Storage:
    """Memory that tensors of one file share."""

    dtype: torch.dtype
    memory: torch.UntypedStorage

    def of(self, dtype: torch.dtype, count: int) -> "_Storage":
        """Return the same memory as elements of a type."""
        if count * dtype.itemsize != self.memory.nbytes():
            raise DamagedFileError("a storage is of two sizes")
        return _Storage(dtype, self.memory)


def _read_archive(archive: zipfile.ZipFile, tensors: bool) -> Any:
    """Read the zip archive that torch writes: a pickle, and a record a storage."""
    roots = [name[:-8] for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise DamagedFileError("it holds no data.pkl, or several")
    root = roots[0]
    if f"{root}constants.pkl" in archive.namelist():
        raise NotPlainDataError("it holds a TorchScript program, not a state dict")
    order: str = sys.byteorder
    if f"{root}byteorder" in archive.namelist():
        order = archive.read(_record(archive, f"{root}byteorder")).decode()
    storages: dict[str, _Storage] = {}

    def find_storage(identity: Any) -> _Storage:
        kind, dtype, key, _, count = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or count < 0:
            raise DamagedFileError(f"unknown reference {kind}")
        if key not in storages:
            record = _record(archive, f"{root}data/{key}")
            if record.file_size != count * dtype.itemsize:
                raise DamagedFileError(f"storage {key} is of another size")
            memory = _allocate(record.file_size, "cpu" if tensors else "meta")
            if tensors:
                with archive.open(record) as source:
                    _fill(memory, source)
                    source.read(1)  # at the end, zipfile compares the checksum
                if order != sys.byteorder:
                    memory.byteswap(dtype)
            storages[key] = _Storage(dtype, memory)
        return storages[key].of(dtype, count)

    pickled = archive.read(_record(archive, f"{root}data.pkl"))
    return _run(io.BytesIO(pickled), find_storage)


def _record(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Find an entry of an archive; reading it compares its checksum, if it has one."""
    record = archive.getinfo(name)
    if (
        getattr(record, "CRC", None) == 0
    ):  # torch.serialization.set_crc32_options(False)
        del record.CRC
    return record


def _allocate(size: int, device: str = "cpu") -> torch.UntypedStorage:
    try:
        return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()
    except RuntimeError as error:
        raise OSError(f"no memory for a storage of {size} bytes") from error


def _fill(memory: torch.UntypedStorage, source: IO[bytes]) -> None:
    """Read bytes into memory, without a copy of the whole beside it."""
    flat = torch.empty(0, dtype=torch.uint8).set_(memory)
    view, done = memoryview(flat.numpy()), 0  # type: ignore[arg-type]
    while done < len(view):
        chunk = source.read(min(CHUNK, len(view) - done))
        if not chunk:
            raise DamagedFileError("it is shorter than it says")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """Read the format before torch 1.6: five pickles, then the storages."""

    def refuse(identity: Any) -> None:
        raise DamagedFileError(f"unknown reference {identity}")

    if _run(file, refuse) != LEGACY_MAGIC or _run(file, refuse) != LEGACY_VERSION:
        raise DamagedFileError("the magic number is another")
    written = _run(file, refuse)
    if written["little_endian"] != (sys.byteorder == "little"):
        raise NotPlainDataError("it comes from a machine of another byte order")
    storages: dict[str, _Storage] = {}

    def find_storage(identity: Any) -> _Storage:
        kind, dtype, key, _, count, view = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise DamagedFileError(f"unknown reference {kind}")
        if view is not None:
            raise NotPlainDataError("it holds views of storages, as before torch 0.4")
        if key not in storages:
            if not 0 <= count * dtype.itemsize <= size:
                raise DamagedFileError(f"storage {key} is larger than the file")
            storages[key] = _Storage(dtype, _allocate(count * dtype.itemsize))
        return storages[key].of(dtype, count)

    content = _run(file, find_storage)
    keys = _run(file, refuse)
    if sorted(keys) != sorted(storages):
        raise DamagedFileError("storages are missing")
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count * storage.dtype.itemsize != storage.memory.nbytes():
            raise DamagedFileError(f"storage {key} is of another size")
        _fill(storage.memory, file)
    return content


# ---------------------------------------------------------------------- the machine

# instructions whose argument is what they put on the stack
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
MAKERS: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": frozenset,
    "DICT": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING_TO_DO = frozenset(["PROTO", "FRAME", "STOP"])


@dataclass(frozen=True)
class _Admitted:
    """What a file may call, by the name it calls it; the only callable on the stack."""

    path: str
    make: Callable[..., Any]


def _run(file: IO[bytes], find_storage: Callable[[Any], Any]) -> Any:
    """Run one pickle and return what it leaves on the stack.

    Args:
        file: At the pickle's first byte; after its last one afterwards.
        find_storage: Called with what torch writes in place of a storage.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in MAKERS:
            stack.append(MAKERS[name]())
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name in FROM_MARK:
            items, stack = stack, marks.pop()
            stack.append(FROM_MARK[name](items))
        elif name in TUPLES:
            items = stack[-TUPLES[name] :]
            del stack[-TUPLES[name] :]
            stack.append(tuple(items))
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items, stack = stack, marks.pop()
            _extend(name, stack[-1], items)
        elif name == "APPEND":
            item = stack.pop()
            _extend("APPENDS", stack[-1], [item])
        elif name == "SETITEM":
            item, key = stack.pop(), stack.pop()
            _extend("SETITEMS", stack[-1], [key, item])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_find(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_find(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            if not isinstance(called, _Admitted):
                raise NotPlainDataError(f"it calls a {type(called).__name__}")
            stack.append(called.make(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            _set_state(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(find_storage(stack.pop()))
        elif name not in NOTHING_TO_DO:
            raise NotPlainDataError(f"it uses the instruction {name} of pickle")
    (content,) = stack
    return content


def _extend(name: str, target: Any, items: list[Any]) -> None:
    """Put items into a list, a dictionary or a set, and into no other object."""
    if name == "APPENDS" and type(target) is list:
        target.extend(items)
    elif name == "SETITEMS" and type(target) in (dict, OrderedDict, Counter):
        target.update(zip(items[::2], items[1::2], strict=True))
    elif name == "ADDITEMS" and type(target) is set:
        target.update(items)
    else:
        raise NotPlainDataError(f"it fills a {type(target).__name__}")


def _set_state(target: Any, state: Any) -> None:
    """Give an object the state that a file holds for it, as far as that is data."""
    if type(target) is OrderedDict:
        # torch keeps the versions of modules there; all else could hide a method
        if isinstance(state, Mapping) and isinstance(state.get("_metadata"), Mapping):
            vars(target)["_metadata"] = state["_metadata"]
    elif type(target) is argparse.Namespace:
        vars(target).update({str(name): value for name, value in state.items()})
    elif type(target) is _NumpyType:
        target.order = str(state[1])
    elif type(target) is np.ndarray:
        _fill_array(target, *state)
    elif type(target) is History:
        for name in ("log_history", "count_history", "max_length"):
            value = state.get(f"_{name}", state.get(name))
            if type(value) in (np.ndarray, int):
                target[name] = value
    else:
        raise NotPlainDataError(f"it sets the state of a {type(target).__name__}")


# ------------------------------------------------------------------- what is admitted


def _nothing(*_: Any) -> None:
    """Stand for what a file asks to call and this package does not."""


def _empty_mapping(*_: Any) -> "OrderedDict[Any, Any]":
    return OrderedDict()


def _mapping(*content: Any) -> "OrderedDict[Any, Any]":
    """Build a mapping, as which one of MMEngine's comes back."""
    items = [item for item in content if isinstance(item, Mapping)]
    return OrderedDict(items[0] if items else {})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Build bytes, as pickles of Python 2's form do."""
    if encoding not in ("latin1", "ascii", "utf-8"):
        raise DamagedFileError(f"unknown encoding {encoding}")
    return text.encode(encoding)


def _bytes(data: bytes = b"") -> bytes:
    if not isinstance(data, bytes):  # a number would be a size
        raise DamagedFileError("bytes are missing")
    return data


def _strided(
    storage: _Storage,
    dtype: torch.dtype,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    """Build a view of a storage; torch would enlarge one that is too short."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise DamagedFileError("a tensor has no storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(
        isinstance(number, int) and number >= 0 for number in numbers
    ):
        raise DamagedFileError(f"a tensor has the shape {size} and strides {stride}")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and (last + 1) * dtype.itemsize > storage.memory.nbytes():
        raise DamagedFileError("a tensor is larger than its storage")
    empty = torch.empty(0, dtype=dtype, device=storage.memory.device)
    return empty.set_(storage.memory, offset, size, stride)


def _tensor(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    notes: Mapping[str, bool] | None = None,
) -> Tensor:
    tensor = _strided(storage, storage.dtype, offset, size, stride)
    return _noted(tensor, requires_grad, notes)


def _typed_tensor(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: torch.dtype,
    notes: Mapping[str, bool] | None = None,
) -> Tensor:
    tensor = _strided(storage, dtype, offset, size, stride)
    return _noted(tensor, requires_grad, notes)


def _noted(
    tensor: Tensor, requires_grad: bool, notes: Mapping[str, bool] | None
) -> Tensor:
    notes = dict(notes or {})
    if notes.pop("conj", False):
        tensor = tensor.conj()
    if notes.pop("neg", False):
        tensor = torch._neg_view(tensor)
    if any(notes.values()):
        raise NotPlainDataError(f"it holds a tensor with the notes {sorted(notes)}")
    return tensor.requires_grad_(bool(requires_grad))


def _parameter(data: Tensor, requires_grad: bool, *_: Any) -> torch.nn.Parameter:
    if not isinstance(data, Tensor):
        raise DamagedFileError("a parameter has no tensor")
    return torch.nn.Parameter(data, requires_grad=bool(requires_grad))


def _tensor_with_attributes(
    make: Any, kind: Any, arguments: tuple[Any, ...], state: Any
) -> Any:
    """Build a tensor without the attributes that a script has put on it."""
    if not isinstance(make, _Admitted) or make.path not in REBUILDS:
        raise DamagedFileError("a tensor is built by something else")
    if kind not in (TABLE["torch.Tensor"], TABLE["torch.nn.parameter.Parameter"]):
        raise NotPlainDataError("it holds a tensor of a class of its own")
    return make.make(*arguments)


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise NotPlainDataError(f"it holds a {what}, which is not read")

    return refuse


@dataclass
class _NumpyType:
    """A dtype of numpy while its pickle is read."""

    name: str
    order: str = "|"

    def resolve(self) -> "np.dtype[Any]":
        """Return the dtype, if it is one of numbers or text."""
        dtype = np.dtype(self.name)
        if dtype.kind not in NUMPY_KINDS:
            raise NotPlainDataError(f"it holds an array of {self.name} of numpy")
        if self.order == ">":
            return dtype.newbyteorder(">")
        return dtype.newbyteorder("<") if self.order == "<" else dtype


def _numpy_type(name: str, *_: Any) -> _NumpyType:
    return _NumpyType(str(name))


def _numpy_scalar(dtype: _NumpyType, data: bytes) -> Any:
    return np.frombuffer(data, dtype.resolve(), count=1)[0]


def _empty_array(*_: Any) -> "np.ndarray[Any, Any]":
    return np.empty(0, dtype=np.uint8)


def _fill_array(
    array: "np.ndarray[Any, Any]",
    version: int,
    shape: tuple[int, ...],
    dtype: _NumpyType,
    fortran: bool,
    data: bytes,
) -> None:
    kind = dtype.resolve()
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * kind.itemsize:
        raise DamagedFileError("an array is of another size")
    state: Any = (1, tuple(map(int, shape)), kind, bool(fortran), data)
    array.__setstate__(state)


def _table() -> Iterator[tuple[str, Any]]:
    """List what a file may name: functions of this module, and torch's dtypes."""
    calls: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.frozenset": frozenset,
        "builtins.bytearray": lambda *data: bytearray(_bytes(*data)),
        "builtins.bytes": _bytes,
        "builtins.complex": complex,
        "_codecs.encode": _encode,
        "argparse.Namespace": lambda: argparse.Namespace(),
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch.Tensor": _refuse("tensor as before torch 0.2"),
        "torch.nn.parameter.Parameter": _refuse("parameter as before torch 0.4"),
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _typed_tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
        "torch._utils._rebuild_qtensor": _refuse("quantised tensor"),
        "torch._utils._rebuild_sparse_tensor": _refuse("sparse tensor"),
        "torch._utils._rebuild_nested_tensor": _refuse("nested tensor"),
        "torch._utils._rebuild_meta_tensor_no_storage": _refuse("tensor without data"),
        "torch.serialization._get_layout": _nothing,  # before a sparse tensor
        "numpy.ndarray": _refuse("array that is built by its class"),
        "numpy.dtype": _numpy_type,
        # Official scripts store their configuration beside the weights, those in the
        # manner of Swin as one of yacs; MMEngine stores histories and their methods.
        "yacs.config.CfgNode": _empty_mapping,
        "mmengine.config.config.ConfigDict": _mapping,
        "mmengine.logging.history_buffer.HistoryBuffer": lambda: History(),
        "builtins.getattr": _nothing,
    }
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray._reconstruct"] = _empty_array
        calls[f"{core}.multiarray.scalar"] = _numpy_scalar
    for path, make in calls.items():
        yield path, _Admitted(path, make)
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            yield f"{module}.{name}", dtype
    for name in dir(torch):
        if isinstance(getattr(torch, name), torch.dtype):
            yield f"torch.{name}", getattr(torch, name)


TABLE = dict(_table())
REBUILDS = [path for path in TABLE if path.startswith("torch._utils._rebuild_")]


def _find(module: Any, attribute: Any) -> Any:
    """Look up what a file names; nothing is ever imported."""
    if module == "__builtin__":  # as Python 2 called it
        module = "builtins"
    path = f"{module}.{attribute}"
    if path.endswith(("QInt8Storage", "QUInt8Storage", "QInt32Storage")):
        raise NotPlainDataError("it holds a quantised tensor, which is not read")
    if path not in TABLE:
        path = path.removeprefix("builtins.")
        raise NotPlainDataError(
            f"it asks for {path}, and nothing but plain data is admitted"
        )
    return TABLE[path]
