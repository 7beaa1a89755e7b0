"""Downloaded weights: checked at each use, and never kept when they are damaged."""

import datetime
import hashlib
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log

from mlp_backbones.checkpoints.torch_file import CheckpointError, DamagedFileError

__all__ = ["hash_of", "use_download"]

_DIGITS = re.compile(r"[0-9a-f]{8,64}")


def use_download(
    address: str, read: Callable[[Path], Any], sha256: str | None = None
) -> Any:
    """Read the file of an address, which is downloaded at its first use.

    It is compared with a hash at each use: with the one that is given, that stands
    behind the address (``#sha256=...``), or in the file's name as OpenMMLab, timm and
    torch write it (``name-0123abcd.pth``). A file that has none is called unverified;
    its hash is recorded beside it, and no other content is used afterwards.

    Args:
        address: An http(s) address.
        read: Reads the file and raises a :class:`CheckpointError` if it cannot.
        sha256: The first 8 or more digits of the file's SHA-256 hash.

    Returns:
        What ``read`` returns.

    Raises:
        CheckpointError: If the file cannot be downloaded or read, or its content is
            not the one expected. Nothing is then left in the cache.
    """
    url, _, fragment = address.partition("#")
    if sha256 is None and fragment.startswith("sha256="):
        sha256 = fragment.removeprefix("sha256=")
    if sha256 is not None and not _DIGITS.fullmatch(sha256):
        raise CheckpointError(
            f"the sha256 of {url} must be 8 to 64 digits from 0 to f, got {sha256!r}"
        )
    name = PurePosixPath(unquote(urlsplit(url).path)).name or "weights"
    if name.endswith((".safetensors", ".npz")):
        raise CheckpointError(f"download {url} yourself and name the file")
    expected = sha256 or _hash_in_name(name)
    file = Path(torch.hub.get_dir()) / "checkpoints" / _cache_name(url, name, sha256)
    rank, _ = get_dist_info()
    if rank > 0:
        barrier()  # the first process downloads, the others read its file
    try:
        return _read_cached(url, file, read, expected)
    finally:
        if rank == 0:
            barrier()


def _hash_in_name(name: str) -> str | None:
    """Find the hash in a name such as ``resnet18-5c106cde.pth``; a date is none."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if found is None:
        return None
    try:
        datetime.datetime.strptime(found[1], "%Y%m%d")
    except ValueError:
        return found[1]
    return None


def _cache_name(url: str, name: str, sha256: str | None) -> str:
    """Name the file so that two addresses, or two hashes, never share one."""
    stem, _, suffix = name.rpartition(".")
    if sha256 is not None:
        return f"{stem}-{sha256}.{suffix}"
    return f"{stem}_{hashlib.sha256(url.encode()).hexdigest()[:8]}.{suffix}"


def _read_cached(
    url: str, file: Path, read: Callable[[Path], Any], expected: str | None
) -> Any:
    """Read the cached file if it is sound, or else download it."""
    if file.is_file():
        digest = hash_of(file)
        if expected is None:
            _compare_with_record(url, file, digest)
        if expected is None or digest.startswith(expected):
            try:
                return _read_and_record(url, file, read, digest, expected)
            except CheckpointError as error:
                if not isinstance(error.__cause__, DamagedFileError):
                    raise
        print_log(f"{file} is damaged and is downloaded anew", "current")
    try:
        file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=expected)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"cannot download {url}: {reason}; name a local file, or no "
            "checkpoint (init_cfg=None, pretrained=None) to start from random weights"
        ) from error
    try:
        digest = hash_of(file)
        _compare_with_record(url, file, digest)
        return _read_and_record(url, file, read, digest, expected)
    except CheckpointError as error:
        file.unlink(missing_ok=True)
        if isinstance(error.__cause__, DamagedFileError):
            raise CheckpointError(
                f"{error}; it was downloaded from {url} and is not kept: try again, "
                "and if a proxy keeps a damaged copy, delete it there"
            ) from error
        raise


def _read_and_record(
    url: str,
    file: Path,
    read: Callable[[Path], Any],
    digest: str,
    expected: str | None,
) -> Any:
    content = read(file)
    record = _record_of(file)
    if expected is None and not record.is_file():
        print_log(
            f"unverified weights: no hash is known of {url}; the SHA-256 of what came, "
            f"{digest}, is recorded in {record} and compared from now on",
            "current",
            level=logging.WARNING,
        )
        unfinished = record.with_name(f"{record.name}.{os.getpid()}.partial")
        try:
            unfinished.write_text(
                f"{digest}  {file.name}\n"
            )  # as sha256sum -c reads it
            unfinished.replace(record)
        except OSError as error:  # a cache that others have filled
            print_log(f"{record} cannot be written: {error}", "current")
            with suppress(OSError):
                unfinished.unlink()
    return content


def _compare_with_record(url: str, file: Path, digest: str) -> None:
    record = _record_of(file)
    recorded = record.read_text().split(" ")[0] if record.is_file() else digest
    if recorded != digest:
        raise CheckpointError(
            f"{file} of {url} has changed since its first use: its SHA-256 is "
            f"{digest}, {record.name} says {recorded}; delete the file to download it "
            f"anew, and {record} to accept the change"
        )


def _record_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def hash_of(file: Path) -> str:
    """Compute the SHA-256 hash of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
