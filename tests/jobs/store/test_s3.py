"""An S3 server that is unreachable, refuses requests or breaks connections."""

import contextlib
import hashlib
import http.server
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from minio import Minio
from minio.error import S3Error

from persona_jobs.errors import InputError, StoreError
from persona_jobs.store import S3Options, StageArtifacts, Store, download, open_store, transfer
from support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, free_port, rclone_binary

BUCKET = "artifacts"


def assert_no_secrets(error: BaseException) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert SECRET_KEY not in f"{seen!r} {seen}"
        assert ACCESS_KEY not in f"{seen!r} {seen}"
        seen = seen.__cause__


def every_action(store: Store, tmp_path: Path) -> Iterator[tuple[str, StoreError]]:
    """Call everything that sends a request; each call must fail with a StoreError."""
    local = tmp_path / "local"
    local.write_bytes(b"x" * 100)
    actions: dict[str, Callable[[], object]] = {
        "read_bytes": lambda: store.read_bytes("a/b"),
        "write_bytes": lambda: store.write_bytes("a/b", b"x"),
        "upload": lambda: store.upload("a/b", local),
        "stat": lambda: store.stat("a/b"),
        "list": lambda: list(store.list("a")),
        "delete_prefix": lambda: store.delete_prefix("a"),
        "download": lambda: download(store, "a/b", tmp_path / "copy", sha256="0" * 64),
        "manifest": lambda: StageArtifacts(store).manifest("mask", "0" * 64),
    }
    for name, action in actions.items():
        with pytest.raises(StoreError) as caught:
            action()
        assert caught.value.exit_code == 1, name
        assert caught.value.hint, name
        assert_no_secrets(caught.value)
        yield name, caught.value


def test_a_stopped_server_is_an_error(tmp_path: Path) -> None:
    options = S3Options(
        endpoint=f"http://127.0.0.1:{free_port()}",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        attempts=2,
    )
    for name, error in every_action(open_store(f"s3://{BUCKET}/x", options), tmp_path):
        assert f"{options.endpoint} can't be reached" in str(error), name
        assert f"s3://{BUCKET}/x" in str(error), name


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        options = S3Options(
            endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            read_timeout=0.2,
            attempts=1,
        )
        with pytest.raises(StoreError, match=r"can't be reached \(ReadTimeoutError\)"):
            open_store(f"s3://{BUCKET}", options).stat("x")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"secret_key": SECRET_KEY + "-wrong"}, "SignatureDoesNotMatch|AccessDenied"),
        ({"access_key": "unknown-key"}, "InvalidAccessKeyId|AccessDenied"),
        ({"access_key": None, "secret_key": None}, "AccessDenied|UnsupportedAlgorithm|BadRequest"),
    ],
)
def test_wrong_credentials_are_an_error(
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    code: str,
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    store = open_store(f"s3://{BUCKET}/x", s3_server.options(**changes))
    for name, error in every_action(store, tmp_path):
        assert any(each in error.message for each in code.split("|")), (name, error.message)
        assert "AWS_SECRET_ACCESS_KEY" in error.hint or "credentials" in error.hint, name


def test_a_missing_bucket_is_an_error(s3_server: S3Server, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/x", s3_server.options())
    for name, error in every_action(store, tmp_path):
        assert "no-such-bucket" in error.message, name
        assert "NoSuchBucket" in error.message, name
        assert "Create the bucket" in error.hint, name


@pytest.mark.parametrize("name", ["b", "Upper_Case", "a..b"])
def test_a_malformed_bucket_name_is_an_error(s3_server: S3Server, name: str) -> None:
    with pytest.raises(StoreError, match=name):
        open_store(f"s3://{name}/x", s3_server.options()).stat("a")


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200
    body = b"<html>hello</html>"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def log_message(self, *args: object) -> None:
        del args


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_is_not_s3_is_an_error(tmp_path: Path, status: int) -> None:
    handler = type("Handler", (Answer,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = S3Options(
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            attempts=2,
        )
        with pytest.raises(StoreError) as caught:
            open_store(f"s3://{BUCKET}/x", options).read_bytes("a")
        server.shutdown()
    assert str(options.endpoint) in str(caught.value)
    assert str(status) in str(caught.value)


class CuttingProxy:
    """A proxy that breaks each connection after so many bytes of answer (None: never)."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.limits: list[int | None] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            limit = self.limits.pop(0) if self.limits else None
            server = socket.create_connection(("127.0.0.1", self.upstream))
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, limit), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                if limit is not None and passed + len(data) >= limit:
                    target.sendall(data[: limit - passed])
                    break
                target.sendall(data)
                passed += len(data)
        except OSError:
            pass
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(s3_server.port)
    yield proxy
    proxy.listener.close()


def test_a_download_resumes_when_the_connection_breaks(
    s3_server: S3Server, proxy: CuttingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.01)
    data = random.Random(1).randbytes(4 << 20)
    open_store(f"s3://{BUCKET}/cut", s3_server.options()).write_bytes("x", data)
    store = open_store(f"s3://{BUCKET}/cut", s3_server.options(endpoint=proxy.endpoint))
    proxy.limits = [1 << 20, 1 << 20, 1 << 20]
    seen: list[int] = []
    download(
        store,
        "x",
        tmp_path / "copy",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        progress=lambda done, total: seen.append(done),
    )
    assert (tmp_path / "copy").read_bytes() == data
    assert proxy.connections >= 4
    assert len(set(seen)) == len(seen)  # no byte was fetched twice


def test_a_download_without_progress_fails_and_the_next_one_resumes_it(
    s3_server: S3Server, proxy: CuttingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.01)
    data = random.Random(2).randbytes(2 << 20)
    digest = hashlib.sha256(data).hexdigest()
    open_store(f"s3://{BUCKET}/stuck", s3_server.options()).write_bytes("x", data)
    store = open_store(f"s3://{BUCKET}/stuck", s3_server.options(endpoint=proxy.endpoint))
    # An answer's head alone is longer than 400 bytes.
    proxy.limits = [1 << 20, *([400] * 40)]
    with pytest.raises(StoreError, match=r"stuck/x"):
        download(store, "x", tmp_path / "copy", size=len(data), sha256=digest)
    assert not (tmp_path / "copy").exists()
    (part,) = tmp_path.glob("copy.*.part")
    kept = part.stat().st_size
    assert 0 < kept < len(data)
    assert part.read_bytes() == data[:kept]
    proxy.limits = []
    seen: list[int] = []
    download(
        store, "x", tmp_path / "copy", sha256=digest, progress=lambda done, total: seen.append(done)
    )
    assert (tmp_path / "copy").read_bytes() == data
    assert seen[0] > kept
    assert not part.exists()


def test_an_object_replaced_during_its_download_is_an_error(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store = open_store(f"s3://{BUCKET}/replaced", s3_server.options())
    store.write_bytes("x", b"a" * 100)
    stat = store.stat("x")
    assert stat is not None
    store.write_bytes("x", b"b" * 100)
    with (
        pytest.raises(StoreError, match="replaced while it was being read"),
        store.open_range("x", 10, stat.etag) as body,
    ):
        body.read(10)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private certificate authority (ca.pem) and a server certificate (server.pem, .key)."""
    if shutil.which("openssl") is None or rclone_binary() is None:
        pytest.skip("needs openssl and rclone")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=Test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names.cnf", "-out", "server.pem",
    )  # fmt: skip
    return folder


def test_tls_works_with_a_private_certificate_authority(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(
        tmp_path / "root", cert=certificates / "server.pem", key=certificates / "server.key"
    )
    try:
        server.make_buckets(BUCKET)
        trusted = server.options(ca_bundle=str(certificates / "ca.pem"))
        store = open_store(f"s3://{BUCKET}/tls", trusted)
        data = random.Random(3).randbytes((17 << 20) + 1)
        (tmp_path / "local").write_bytes(data)
        store.upload("x", tmp_path / "local")
        download(store, "x", tmp_path / "copy", sha256=hashlib.sha256(data).hexdigest())
        assert list(store.list()) == ["x"]
        store.delete_prefix("x")
        store.write_bytes("small", b"1")
        assert store.read_bytes("small") == b"1"

        with pytest.raises(StoreError, match="certificate") as caught:
            open_store(f"s3://{BUCKET}/tls", server.options()).stat("x")
        assert caught.value.hint.startswith("Set AWS_CA_BUNDLE")

        # The certificate names 127.0.0.1; another authority is set already.
        bundle = certificates / "other.pem"
        shutil.copy(certifi.where(), bundle)
        with pytest.raises(StoreError, match="certificate") as caught:
            open_store(f"s3://{BUCKET}/tls", server.options(ca_bundle=str(bundle))).stat("x")
        assert caught.value.hint == f"Add its certificate authority to {bundle} (AWS_CA_BUNDLE)"

        # A source on another server than the store's: its authority is one of the usual ones.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        with pytest.raises(StoreError, match="certificate"):
            open_store(f"s3://{BUCKET}/tls", server.options(ca_bundle=str(bundle))).stat("x")
        both = server.options(ca_bundle=str(bundle), trust_usual=True)
        assert open_store(f"s3://{BUCKET}/tls", both).stat("small") is not None
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(StoreError, match="certificate"):
            open_store(f"s3://{BUCKET}/tls", both).stat("small")

        # No bundle helps where the certificate is that of another host name.
        wrong_host = server.options(
            endpoint=server.endpoint.replace("127.0.0.1", "127.1"),
            ca_bundle=str(certificates / "ca.pem"),
            attempts=1,
        )
        with pytest.raises(StoreError) as caught:
            open_store(f"s3://{BUCKET}/tls", wrong_host).stat("x")
        assert caught.value.hint == "Use a host name of the certificate in the endpoint URL"
    finally:
        server.stop()


@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_an_unusable_ca_bundle_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(InputError, match=r"ca\.pem") as caught:
        open_store(f"s3://{BUCKET}", S3Options(endpoint="https://h", ca_bundle=str(bundle)))
    assert "AWS_CA_BUNDLE" in caught.value.hint


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed"])
def test_a_server_without_batch_delete_deletes_one_by_one(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    store = open_store(f"s3://{BUCKET}/batch", s3_server.options())
    store.write_bytes("a/one", b"1")
    store.write_bytes("a/b/two", b"2")
    store.write_bytes("other", b"3")

    def refuse(*_args: object, **_options: object) -> Iterator[object]:
        raise S3Error(None, code, "POST ?delete", None, None, None)  # type: ignore[arg-type]
        yield

    monkeypatch.setattr(Minio, "remove_objects", refuse)
    store.delete_prefix("a")
    assert list(store.list()) == ["other"]
    store.delete("other")


def test_tls_to_a_server_without_it_is_not_called_a_certificate_problem(
    s3_server: S3Server,
) -> None:
    options = s3_server.options(endpoint=s3_server.endpoint.replace("http:", "https:"), attempts=1)
    with pytest.raises(StoreError, match="does not speak TLS") as caught:
        open_store(f"s3://{BUCKET}/x", options).read_bytes("a")
    assert caught.value.hint == "Use http:// in the endpoint URL, or the server's TLS port"


def test_the_proxy_of_the_environment_is_used(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The S3 server stands in for the proxy: it answers a request for another host's object.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{s3_server.port}")
    monkeypatch.setenv("no_proxy", "direct.invalid")
    options = s3_server.options(endpoint="http://store.invalid", attempts=1)
    with pytest.raises(StoreError) as caught:
        open_store(f"s3://{BUCKET}/x", options).read_bytes("a")
    assert "can't be reached" not in str(caught.value)
    options = s3_server.options(endpoint="http://direct.invalid", attempts=1)
    with pytest.raises(StoreError, match="can't be reached"):
        open_store(f"s3://{BUCKET}/x", options).read_bytes("a")
