"""Files of torch.save: what torch reads is read alike, and nothing in a file runs."""

import argparse
import collections
import contextlib
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_backbones.checkpoints import torch_file
from mlp_backbones.checkpoints.torch_file import (
    DamagedFileError,
    NotPlainDataError,
    read_torch_file,
)

FORMATS = [{}, {"_use_new_zipfile_serialization": False}]


def _save(content: Any, file: Path, **options: Any) -> Path:
    torch.save(content, file, **options)
    return file


def _assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.stride() == theirs.stride()
        assert ours.storage_offset() == theirs.storage_offset()
        assert ours.requires_grad == theirs.requires_grad
        assert ours.untyped_storage().nbytes() == theirs.untyped_storage().nbytes()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.flags == theirs.flags
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            _assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            _assert_same(mine, other)
    elif isinstance(theirs, argparse.Namespace):
        _assert_same(vars(ours), vars(theirs))
    else:
        assert ours == theirs


def _content() -> dict[str, Any]:
    base = torch.randn(4, 6)
    versions = collections.OrderedDict(weight=torch.ones(2))
    versions._metadata = {"": {"version": 2}}
    return {
        **{
            str(dtype): torch.arange(6).to(dtype)
            for dtype in torch_file.STORAGES.values()
        },
        "strided": base.t()[1:, ::2],
        "expanded": torch.ones(1).expand(3),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "nan": torch.tensor([float("nan"), float("-inf")]),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "shared": [base[0], base[1]],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
        "versions": versions,
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "plain": [
            None,
            True,
            False,
            0,
            -1,
            255,
            65536,
            2**40,
            -(2**70),
            1.5,
            "é",
            b"x",
        ],
        "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1, 2}, set(), {}),
        "complex": 1j,
        "bytes": [b"", b"x", bytes(range(256)), bytearray(b"ab")],
        "milestones": collections.Counter([8, 11, 11]),
        "args": argparse.Namespace(lr=0.1, layers=[1, 2], nested={"a": (1,)}),
        "scalars": [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)],
        "arrays": [
            np.arange(6).reshape(2, 3).astype(kind)
            for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?", "c16", ">f4")
        ],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["ab", "c"]),
    }


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_that_is_plain_comes_back(
    options: dict[str, Any], protocol: int, tmp_path: Path
) -> None:
    content = _content()
    if protocol == 5:  # numpy writes its arrays in a way of its own then
        del content["arrays"], content["fortran"], content["text"]
    file = _save(content, tmp_path / "a.pth", pickle_protocol=protocol, **options)
    ours, theirs = read_torch_file(file), torch.load(file, weights_only=False)
    _assert_same(ours, theirs)
    assert ours["versions"]._metadata == theirs["versions"]._metadata
    first, second = ours["shared"]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    first.zero_()
    assert ours["strided"].sum() != theirs["strided"].sum(), "one storage, as saved"


@pytest.mark.skipif(not hasattr(torch, "uint16"), reason="torch 2.3 brought them")
def test_newer_types_come_back(tmp_path: Path) -> None:
    for name in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"):
        tensor = torch.arange(4).to(getattr(torch, name))
        read = read_torch_file(_save({"a": tensor}, tmp_path / "a.pth"))["a"]
        assert read.dtype == tensor.dtype
        assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


def test_a_tensor_with_attributes_comes_back_without_them(tmp_path: Path) -> None:
    for tensor in (torch.ones(2), torch.nn.Parameter(torch.ones(2))):
        tensor.note = "of a script"
        read = read_torch_file(_save([tensor], tmp_path / "a.pth"))[0]
        assert torch.equal(read, tensor) and type(read) is type(tensor)
        assert not hasattr(read, "note")


def test_no_second_copy_is_made(tmp_path: Path) -> None:
    file = _save(torch.zeros(64 << 18), tmp_path / "large.pth")  # 64 MiB
    tracemalloc.start()
    try:
        read_torch_file(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20, "torch's own memory is not counted; a copy would be"


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.eye(3).to_sparse()),
        ("sparse", lambda: torch.eye(3).to_sparse_csr()),
        (
            "quantised",
            lambda: torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
        ),
        ("without data", lambda: torch.ones(2, device="meta")),
        ("array of O", lambda: np.array([{}, None])),
        ("array of V", lambda: np.zeros(2, dtype="f8,i4")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch calls these kinds beta or deprecated
def test_other_kinds_are_refused_in_a_line(
    kind: str, make: Callable[[], Any], tmp_path: Path
) -> None:
    with pytest.raises(NotPlainDataError, match=kind) as caught:
        read_torch_file(_save({"a": make()}, tmp_path / "a.pth"))
    assert "\n" not in str(caught.value)


def test_a_program_is_told_from_weights(tmp_path: Path) -> None:
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    traced.save(str(tmp_path / "a.pth"))
    with pytest.raises(NotPlainDataError, match="TorchScript"):
        read_torch_file(tmp_path / "a.pth")


# ------------------------------------------------------------------------ damage


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy"])
def test_any_cut_is_damage(options: dict[str, Any], tmp_path: Path) -> None:
    file = _save({"a": torch.ones(5), "b": [1, "x"]}, tmp_path / "a.pth", **options)
    data = file.read_bytes()
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(DamagedFileError):
            read_torch_file(file)


def test_a_changed_byte_of_a_tensor_is_damage(tmp_path: Path) -> None:
    """torch.load reads such a file and returns other weights."""
    file = _save({"a": torch.full((500,), 1.5)}, tmp_path / "a.pth")
    data = bytearray(file.read_bytes())
    data[data.index(struct.pack("<f", 1.5)) + 100] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedFileError, match="CRC"):
        read_torch_file(file)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"),
    reason="before torch 2.6, files have their checksums always",
)
def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        file = _save({"a": torch.arange(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch_file(file)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy"])
def test_random_damage_raises_nothing_else(
    options: dict[str, Any], tmp_path: Path
) -> None:
    file = _save(_content(), tmp_path / "a.pth", **options)
    data, generator = file.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            changed[place] = generator.integers(256)
        file.write_bytes(changed)
        with contextlib.suppress(DamagedFileError, NotPlainDataError):
            read_torch_file(file)


def _zip_of(pickled: bytes, file: Path, **records: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"archive/{name.replace('_', '/')}", data)
    return file


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    file = _save({"a": torch.arange(3, dtype=torch.int32)}, tmp_path / "a.pth")
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        pickled = archive.read(name)
    big = np.arange(3, dtype=">i4").tobytes()
    crafted = _zip_of(pickled, tmp_path / "b.pth", data_0=big, byteorder=b"big")
    assert read_torch_file(crafted)["a"].tolist() == [0, 1, 2]


# ------------------------------------------------------------------------ malice


class _Call:
    """Pickles as a call of anything with any arguments, and then a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, *([] if state is None else [state]))

    def __reduce__(self) -> Any:
        return self.reduced


class _Name:
    """Pickles as the name of a global."""

    def __init__(self, module: str, name: str) -> None:
        self.name = (module, name)


class _Storage:
    """Pickles as torch writes a storage."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


class _Pickler(pickle._Pickler):
    """Writes names that this process may not have."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_name(self, thing: _Name) -> None:
        module, name = thing.name
        self.write(f"c{module}\n{name}\n".encode())

    def save_call(self, thing: _Call) -> None:
        function, arguments, *state = thing.reduced
        self.save(function)
        self.save(arguments)
        self.write(pickle.REDUCE)
        for part in state:
            self.save(part)
            self.write(pickle.BUILD)

    def save_storage(self, thing: _Storage) -> None:
        self.save(thing.identity)
        self.write(pickle.BINPERSID)

    dispatch[_Name] = save_name
    dispatch[_Call] = save_call
    dispatch[_Storage] = save_storage


def _pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


FLOATS = _Name("torch", "FloatStorage")
STORE = _Storage("storage", FLOATS, "0", "cpu", 4)
REBUILD = _Name("torch._utils", "_rebuild_tensor_v2")
PARAMETER = _Name("torch._utils", "_rebuild_parameter")
ORDERED = _Name("collections", "OrderedDict")
HISTORY = _Name("mmengine.logging.history_buffer", "HistoryBuffer")
GETATTR = _Name("builtins", "getattr")
DTYPE = _Name("numpy", "dtype")
RECONSTRUCT = _Name("numpy.core.multiarray", "_reconstruct")
F8 = _Call(DTYPE, "f8", False, True)

MALICE = {
    "os.system": _Call(os.system, "touch sprung"),
    "eval": _Call(eval, "open('sprung', 'w')"),
    "exec": _Call(exec, "open('sprung', 'w')"),
    "open": _Call(open, "sprung", "w"),
    "popen": _Call(subprocess.Popen, ["touch", "sprung"]),
    "python 2's": _Call(_Name("__builtin__", "eval"), "open('sprung', 'w')"),
    "partial": _Call(functools.partial, os.system, "touch sprung"),
    "operator": _Call(operator.methodcaller, "touch"),
    "attrgetter": _Call(_Name("operator", "attrgetter"), "system"),
    "dotted": _Call(_Name("torch", "os.system"), "touch sprung"),
    "dotted builtin": _Call(_Name("collections", "OrderedDict.__init__"), 1),
    "torch.load": _Call(torch.load, "other.pth"),
    "torch.hub": _Call(torch.hub.load, "owner/name", "model"),
    "torch.jit": _Call(_Name("torch.jit", "load"), "other.pt"),
    "numpy.load": _Call(np.load, "other.npy", None, True),
    "a module": _Name("this", "s"),
    "result of getattr": _Call(_Call(GETATTR, ORDERED, "fromkeys"), [1]),
    "method of a value": _Call(_Call(ORDERED), 1),
    "a history called": _Call(_Call(HISTORY), 1),
    "call of a dtype": _Call(_Name("torch", "float32"), 1),
    "state of a class": _Call(GETATTR, ORDERED, "x", state={"y": 1}),
    "state of a function": _Call(
        _Call(_Name("collections", "Counter"), [1], state={"update": 1}), 1
    ),
    "shape of strings": _Call(REBUILD, STORE, 0, ("4",), (1,), False, None),
    "negative stride": _Call(REBUILD, STORE, 3, (4,), (-1,), False, None),
    "negative offset": _Call(REBUILD, STORE, -1, (4,), (1,), False, None),
    "beyond the storage": _Call(REBUILD, STORE, 0, (5,), (1,), False, None),
    "offset beyond": _Call(REBUILD, STORE, 1, (2, 2), (2, 1), False, None),
    "strides beyond": _Call(REBUILD, STORE, 0, (2, 2), (9**9, 1), False, None),
    "no storage": _Call(REBUILD, [1.0], 0, (1,), (1,), False, None),
    "unknown notes": _Call(REBUILD, STORE, 0, (4,), (1,), False, None, {"x": True}),
    "record too short": _Call(
        REBUILD, _Storage("storage", FLOATS, "0", "cpu", 9), 0, (4,), (1,), False, None
    ),
    "negative count": _Storage("storage", FLOATS, "0", "cpu", -4),
    "huge count": _Storage("storage", FLOATS, "0", "cpu", 2**60),
    "no such record": _Storage("storage", FLOATS, "../../etc/passwd", "cpu", 4),
    "a file's path": _Storage("storage", FLOATS, "/etc/passwd", "cpu", 4),
    "a type that is none": _Storage("storage", ORDERED, "0", "cpu", 4),
    "a module's reference": _Storage("module", ORDERED, "a.py", "import os"),
    "parameter of a list": _Call(PARAMETER, [1.0], True, None),
    "subclass": _Call(
        _Name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, ORDERED, (), {}
    ),
    "built by another": _Call(
        _Name("torch._tensor", "_rebuild_from_type_v2"),
        ORDERED,
        _Name("torch", "Tensor"),
        ([(1, 2)],),
        {},
    ),
    "objects in an array": _Call(
        RECONSTRUCT,
        _Name("numpy", "ndarray"),
        (0,),
        b"b",
        state=(1, (1,), _Call(DTYPE, "O", False, True), False, [1]),
    ),
    "array too short": _Call(
        RECONSTRUCT, None, (0,), b"b", state=(1, (3,), F8, False, b"\0" * 8)
    ),
    "array of negative size": _Call(
        RECONSTRUCT, None, (0,), b"b", state=(1, (-1, -1), F8, False, b"\0" * 8)
    ),
    "scalar of objects": _Call(
        _Name("numpy.core.multiarray", "scalar"), _Call(DTYPE, "O8", False, True), b"8"
    ),
    "scalar too short": _Call(_Name("numpy.core.multiarray", "scalar"), F8, b"8"),
    "much memory": _Call(_Name("builtins", "bytearray"), 1 << 50),
    "many numbers": _Call(_Name("torch", "Size"), 1 << 50),
    "an unknown codec": _Call(_Name("_codecs", "encode"), "a", "rot13"),
}


@pytest.mark.parametrize("what", MALICE)
def test_nothing_in_a_file_runs(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = _pickled({"state_dict": {}, "x": MALICE[what]})
    file = _zip_of(pickled, tmp_path / "a.pth", data_0=np.ones(4, "f4").tobytes())
    with pytest.raises((DamagedFileError, NotPlainDataError)) as caught:
        read_torch_file(file)
    assert "\n" not in str(caught.value)
    header = [torch_file.LEGACY_MAGIC, torch_file.LEGACY_VERSION]
    parts = [*header, {"little_endian": True}, MALICE[what], ["0"]]
    file.write_bytes(
        b"".join(map(_pickled, parts)) + struct.pack("<q4f", 4, 1, 1, 1, 1)
    )
    with pytest.raises((DamagedFileError, NotPlainDataError)):
        read_torch_file(file)
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(
    "content",
    [
        _Call(ORDERED, state={"items": 1, "__class__": 2, "_metadata": "no mapping"}),
        _Call(HISTORY, state={"_statistics_methods": {"mean": GETATTR}}),
        _Call(_Name("yacs.config", "CfgNode"), state={"__immutable__": True}),
        _Call(_Name("argparse", "Namespace"), state={"__class__": 1, "x": 2}),
    ],
)
def test_a_state_stays_data(content: _Call, tmp_path: Path) -> None:
    before = [dict(vars(cls)) for cls in (collections.OrderedDict, argparse.Namespace)]
    read = read_torch_file(_zip_of(_pickled(content), tmp_path / "a.pth"))
    if isinstance(read, dict):
        assert list(read.items()) == [] and not vars(read)
    after = [dict(vars(cls)) for cls in (collections.OrderedDict, argparse.Namespace)]
    assert before == after
