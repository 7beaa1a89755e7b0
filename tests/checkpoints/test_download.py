"""Downloads from a server in this process: what is damaged is neither used nor kept."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mlp_backbones.checkpoints import CheckpointError, download, read_checkpoint


class Server:
    """Sends what `files` holds; a number is a status, a tuple says its length first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | int | tuple[int, bytes]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                sent = outer.files.get(self.path.split("?")[0], 404)
                if isinstance(sent, int):
                    self.send_error(sent)
                    return
                length, body = sent if isinstance(sent, tuple) else (len(sent), sent)
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        download, "print_log", lambda text, *_, **__: lines.append(text)
    )
    return lines


def weights(value: float, folder: Path, **options: bool) -> tuple[bytes, str]:
    file = folder / "weights"
    torch.save({"a": torch.full((100,), value)}, file, **options)
    content = file.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("known", ["name", "address", "argument", "nothing"])
def test_a_cut_file_is_not_kept(server, cache, tmp_path, known, legacy) -> None:
    content, digest = weights(1.0, tmp_path, _use_new_zipfile_serialization=not legacy)
    name = f"a-{digest[:8]}.pth" if known == "name" else "a.pth"
    mark = f"#sha256={digest}" if known == "address" else ""
    sha256 = digest[:12] if known == "argument" else None
    server.files[f"/{name}"] = len(content), content[:-90]
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(server.address(name) + mark, sha256=sha256)
    assert server.address(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())
    server.files[f"/{name}"] = content
    for _ in range(2):  # downloaded now, then taken from the cache
        read = read_checkpoint(server.address(name) + mark, sha256=sha256)
        assert torch.equal(read["a"], torch.ones(100))
    assert len(server.asked) == 2


@pytest.mark.parametrize("known", ["name", "address", "argument"])
def test_a_file_of_another_hash_is_refused(server, cache, tmp_path, known) -> None:
    content, _ = weights(1.0, tmp_path)
    _, digest = weights(2.0, tmp_path)
    name = f"a-{digest[:8]}.pth" if known == "name" else "a.pth"
    server.files[f"/{name}"] = content
    address = server.address(name)
    with pytest.raises(CheckpointError, match=f"cannot download {address}: invalid"):
        read_checkpoint(
            address + (f"#sha256={digest}" if known == "address" else ""),
            sha256=digest if known == "argument" else None,
        )
    assert not list(cache.iterdir())


def test_a_damaged_cached_file_of_a_known_hash_is_replaced(
    server, cache, tmp_path, said
) -> None:
    content, digest = weights(1.0, tmp_path)
    server.files["/a.pth"] = content
    address = f"{server.address('a.pth')}#sha256={digest}"
    read_checkpoint(address)
    (file,) = cache.iterdir()
    other, _ = weights(2.0, tmp_path)
    file.write_bytes(other)  # sound, but not what was asked for
    assert torch.equal(read_checkpoint(address)["a"], torch.ones(100))
    assert said == [f"{file} is damaged and is downloaded anew"]
    file.write_bytes(other)
    server.files["/a.pth"] = 404
    with pytest.raises(CheckpointError, match="HTTP Error 404"):
        read_checkpoint(address)
    assert not list(cache.iterdir())


def test_weights_without_a_hash(server, cache, tmp_path, said) -> None:
    content, digest = weights(1.0, tmp_path)
    other, new = weights(2.0, tmp_path)
    server.files["/a-20210901.pth"] = content  # a date is no hash
    address = f"{server.address('a-20210901.pth')}?download=1"
    for _ in range(2):
        read_checkpoint(address)
    (line,) = said
    assert line.startswith("unverified weights") and address in line and digest in line
    file, record = sorted(cache.iterdir())
    assert record.read_text() == f"{digest}  {file.name}\n"
    # in the cache
    file.write_bytes(other)
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        read_checkpoint(address)
    for word in (str(file), digest, new, str(record)):
        assert word in str(caught.value)
    # at the address
    file.unlink()
    server.files["/a-20210901.pth"] = other
    with pytest.raises(CheckpointError, match="has changed since"):
        read_checkpoint(address)
    assert list(cache.iterdir()) == [record]
    record.unlink()
    assert read_checkpoint(address)["a"][0] == 2
    assert len(said) == 2


def test_two_addresses_do_not_share_a_file(server, cache, tmp_path) -> None:
    for folder, value in (("x", 1.0), ("y", 2.0)):
        server.files[f"/{folder}/a.pth"], _ = weights(value, tmp_path)
    for folder, value in (("x", 1.0), ("y", 2.0)) * 2:
        assert read_checkpoint(server.address(f"{folder}/a.pth"))["a"][0] == value


@pytest.mark.parametrize("digits", ["0123abc", "0123ABCD", "x" * 8, "a" * 65, ""])
def test_a_hash_that_is_none(server, digits) -> None:
    with pytest.raises(CheckpointError, match="8 to 64 digits"):
        read_checkpoint(f"{server.address('a.pth')}#sha256={digits}")
    assert not server.asked


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_address_that_has_no_file(server, cache, status) -> None:
    server.files["/a.pth"] = status
    with pytest.raises(CheckpointError, match=f"HTTP Error {status}.*local file"):
        read_checkpoint(server.address("a.pth"))
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(server, cache, tmp_path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    server.files["/a.pth"], _ = weights(1.0, tmp_path)
    with pytest.raises(CheckpointError, match="cannot download"):
        read_checkpoint(server.address("a.pth"))


def test_a_cache_that_others_have_filled(server, cache, tmp_path, said) -> None:
    """Where no record can be written, the weights are used all the same."""
    server.files["/a.pth"], _ = weights(1.0, tmp_path)
    address = server.address("a.pth")
    read_checkpoint(address)
    file, record = sorted(cache.iterdir())
    record.unlink()
    record.mkdir()
    said.clear()
    assert torch.equal(read_checkpoint(address)["a"], torch.ones(100))
    assert "unverified" in said[0] and "cannot be written" in said[1]
    assert sorted(cache.iterdir()) == [file, record]
