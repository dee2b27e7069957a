"""Tests of the one way to open an image: what a model is trained on is what it is shown, in every step and on the wire."""

import base64
import io
import socket
import socketserver
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sophia_cli.backends._openai.chat_api import _image_part
from sophia_cli.decontamination.image_hash import perceptual_hash
from sophia_cli.errors import RecordError
from sophia_cli.io import downloads
from sophia_cli.io.images import decode_image, image_bytes, open_image, wire_bytes
from sophia_cli.io.parquet import stored_image

SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[4:12, 4:20] = (200, 30, 30)
SCENE[14:20, 25:36] = (30, 30, 200)
GRAY = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


def oriented(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Returns the scene as a camera stores it with this orientation, and the EXIF block that says so."""
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image, exif = Image.fromarray(SCENE), Image.Exif()
    exif[0x0112] = orientation
    turn = turns[orientation]
    return (image if turn is None else image.transpose(turn)), exif


def images(folder: Path) -> dict[str, str]:
    """Returns files in many formats by their names."""
    found = {}
    for orientation in (1, 3, 6, 8):
        image, exif = oriented(orientation)
        for kind in ("png", "webp", "tiff"):
            options = {"lossless": True} if kind == "webp" else {}
            found[f"{kind}{orientation}"] = saved(folder / f"{orientation}.{kind}", image, exif=exif, **options)
    scene = Image.fromarray(SCENE)
    for kind in ("bmp", "ppm", "tga", "gif"):
        found[kind] = saved(folder / f"x.{kind}", scene)
    found["jpeg"] = saved(folder / "x.jpg", scene, quality=95)
    found["alpha"] = saved(folder / "alpha.png", Image.fromarray(np.dstack([SCENE, SCENE.max(axis=2)])))
    found["palette"] = saved(folder / "p.png", scene.quantize(8))
    found["gray"] = saved(folder / "l.png", scene.convert("L"))
    found["i16"] = saved(folder / "i16.png", Image.fromarray(GRAY))
    found["i16tiff"] = saved(folder / "i16.tiff", Image.fromarray(GRAY))
    found["frames"] = saved(folder / "f.gif", scene, save_all=True, append_images=[Image.new("RGB", scene.size)])
    return found


def test_pixels_are_the_same_in_this_process_on_the_wire_and_in_exports(tmp_path: Path) -> None:
    for name, file in images(tmp_path).items():
        pixels = np.asarray(open_image(file))
        data, media_type = wire_bytes(file)
        assert media_type in ("image/png", "image/jpeg", "image/webp", "image/gif"), name
        # A server that knows nothing of EXIF, alpha or 16 bits.
        with Image.open(io.BytesIO(data)) as plain:
            assert np.array_equal(np.asarray(plain.convert("RGB")), pixels), name
        sent = _image_part(file, "data", False)["image_url"]["url"]
        header, _, payload = sent.partition(",")
        assert header == f"data:{media_type};base64" and base64.b64decode(payload) == data, name
        assert np.array_equal(np.asarray(decode_image(stored_image(file, True)["bytes"], file)), pixels), name


def test_images_are_upright(tmp_path: Path) -> None:
    found = images(tmp_path)
    for name in ("png", "webp", "tiff"):
        assert all(np.array_equal(np.asarray(open_image(found[f"{name}{turn}"])), SCENE) for turn in (1, 3, 6, 8))
    assert len({perceptual_hash(found[f"png{turn}"]) for turn in (1, 3, 6, 8)}) == 1


def test_sixteen_bits_are_scaled_and_transparent_pixels_are_white(tmp_path: Path) -> None:
    found = images(tmp_path)
    for name in ("i16", "i16tiff"):
        assert np.array_equal(np.asarray(open_image(found[name]))[..., 0], (GRAY // 257).astype(np.uint8))
    assert np.asarray(open_image(found["alpha"]))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a git-lfs pointer; run `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>Login</body></html>", "an HTML page"),
        (b'\xef\xbb\xbf  <html lang="en">', "an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"anything else", "not an image"),
        (b"\x89PNG\r\n\x1a\n cut", "cannot be opened"),
    ],
)
def test_what_is_no_image_is_named_everywhere(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(data)
    for use in (open_image, wire_bytes, perceptual_hash, lambda name: _image_part(name, "data", False)):
        with pytest.raises(RecordError) as fault:
            use(str(file))
        assert said in str(fault.value)


def test_floats_and_32_bits_are_named(tmp_path: Path) -> None:
    for array, said in ((np.ones((4, 4), np.float32), "floats"), (np.full((4, 4), 1 << 20, np.int32), "32 bits")):
        with pytest.raises(RecordError, match=said):
            open_image(saved(tmp_path / "x.tiff", Image.fromarray(array)))


@pytest.mark.parametrize("reference", ["s3://bucket/a.png", "gs://bucket/a.png", "hf://datasets/a/b.png", "hf:a/b.png"])
def test_schemes_that_are_not_read_are_named(reference: str) -> None:
    scheme = reference.partition(":")[0]
    with pytest.raises(RecordError, match=f"addresses that begin with {scheme}: are not read"):
        image_bytes(reference)


def test_a_file_url_in_any_case_and_spelling(tmp_path: Path) -> None:
    file = tmp_path / "图 1.png"
    Image.fromarray(SCENE).save(file)
    for reference in (f"file://{file}", f"FILE://{file}", file.as_uri(), str(file)):
        assert np.array_equal(np.asarray(open_image(reference)), SCENE)


@contextmanager
def served(handle: Any) -> Iterator[tuple[str, list[str]]]:
    """Serves GET requests by `handle(self, number)`; yields the address and the paths that were requested."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            handle(self, len(paths))

        def log_message(self, *arguments: Any) -> None: ...

    server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
    finally:
        server.shutdown()


def reply(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "RETRY_WAITS", (0.0, 0.0))


def test_addresses_are_encoded_as_browsers_do() -> None:
    with served(lambda handler, number: reply(handler, b"x")) as (url, paths):
        for path in ("/图.png", "/a b.png", "/a%20b.png", "/a.png?q=é&x=1"):
            assert image_bytes(url.replace("http", "HTTP", 1) + path) == b"x"
    assert paths == ["/%E5%9B%BE.png", "/a%20b.png", "/a%20b.png", "/a.png?q=%C3%A9&x=1"]


def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_not(no_waits: None) -> None:
    with served(lambda handler, number: reply(handler, b"x", 503 if number < 3 else 200)) as (url, paths):
        assert image_bytes(f"{url}/a.png") == b"x" and len(paths) == 3
    with served(lambda handler, number: reply(handler, b"gone", 404)) as (url, paths):
        with pytest.raises(RecordError, match="HTTP 404"):
            image_bytes(f"{url}/a.png")
        assert len(paths) == 1


@pytest.mark.parametrize(
    "cause",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        ConnectionResetError(104, "Connection reset by peer"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ],
)
def test_only_what_may_pass_is_tried_again(cause: OSError, no_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fails(*arguments: Any, **options: Any) -> Any:
        tries.append(arguments)
        raise urllib.error.URLError(cause)

    monkeypatch.setattr("urllib.request.urlopen", fails)
    with pytest.raises(RecordError, match=cause.strerror or ""):
        image_bytes("https://example.org/a.png")
    lasting = isinstance(cause, ssl.SSLCertVerificationError) or cause.errno == socket.EAI_NONAME
    assert len(tries) == (1 if lasting else 3)


def test_a_download_is_bounded_in_bytes_and_seconds(no_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * (1 << 16))
        except OSError:
            return

    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 1_000_000)
    with served(endless) as (url, paths), pytest.raises(RecordError, match="more than 1 MB"):
        image_bytes(f"{url}/a.png")
    assert len(paths) == 1
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 1 << 40)
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.5)
    with served(endless) as (url, _), pytest.raises(RecordError, match="not complete after"):
        image_bytes(f"{url}/a.png")


def test_headers_that_do_not_end_are_bounded(no_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(handler: BaseHTTPRequestHandler, number: int) -> None:
        try:
            while True:
                handler.wfile.write(b"H")
                time.sleep(0.05)
        except OSError:
            return

    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.5)
    with served(slow) as (url, _), pytest.raises(RecordError, match="not complete after"):
        image_bytes(f"{url}/a.png")


@pytest.mark.parametrize(
    ("url", "encoded"),
    [
        ("http://例え.テスト:8080/a.png", "http://xn--r8jz45g.xn--zckzah:8080/a.png"),
        ("http://me:pw@例え.テスト/a.png", "http://me:pw@xn--r8jz45g.xn--zckzah/a.png"),
        (" http://[::1]:80/a b.png", "http://[::1]:80/a%20b.png"),
    ],
)
def test_hosts_with_ports_and_users(url: str, encoded: str) -> None:
    assert downloads.encode_url(url) == encoded


def test_a_broken_address_is_named() -> None:
    for use in (image_bytes, lambda reference: _image_part(reference, "data", False)):
        with pytest.raises(RecordError, match="not an address"):
            use("http://[::1/a.png")


def test_a_damaged_file_is_refused_and_not_half_black(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = saved(tmp_path / "a.png", Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)))
    whole = bytearray(Path(file).read_bytes())
    for place in (len(whole) // 3, len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place : place + 40] = b"\xff" * 40
        Path(file).write_bytes(damaged)
        for use in (open_image, wire_bytes):
            with pytest.raises(RecordError, match="cannot be opened"):
                use(file)


def test_masks_with_32_bits_are_not_black(tmp_path: Path) -> None:
    mask = np.arange(16, dtype=np.int32).reshape(4, 4) * 16
    found = open_image(saved(tmp_path / "x.tiff", Image.fromarray(mask)))
    assert np.array_equal(np.asarray(found)[..., 0], mask.astype(np.uint8))


def test_references_that_are_no_paths(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="write base64 as data:image/png;base64,"):
        image_bytes("iVBORw0KGgo" * 100)
    with pytest.raises(RecordError, match="no comma"):
        image_bytes("data:image/png;base64")


def test_a_cut_off_download_is_tried_again(no_waits: None) -> None:
    def cut(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"whole"[: 4 if number > 1 else 2])

    with served(cut) as (url, paths):
        assert image_bytes(f"{url}/a.png") == b"whol" and len(paths) == 2
