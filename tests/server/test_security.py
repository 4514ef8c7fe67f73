"""TLS, mutual TLS and API tokens, with certificates made for the test."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from pyconv import Credentials
from pyconv.cli import main
from pyconv.client import Client
from pyconv.errors import InputError, PyconvError, ServerError
from pyconv.server.background import BackgroundServer
from pyconv.server.security import Tls, Tokens, exposure
from pyconv.server.settings import ModelSpec, Settings

_TOKENS = ("the-first-token-0123456789", "the-second-token-9876543210")
_IMAGES = np.zeros((1, 6, 8, 1), np.uint8)
_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class _Files:
    """PEM files: an authority, a server's and a client's certificate of it, and a stranger's."""

    ca: Path
    server: Path
    client: Path
    expired: Path
    stranger: Path
    tokens: Path


def _write(folder: Path, name: str, certificate: trustme.LeafCert) -> Path:
    """The certificate and its key in one file, which either flag may name."""
    path = folder / f"{name}.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> _Files:
    folder = tmp_path_factory.mktemp("pem")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "tokens").write_text("\n".join(_TOKENS) + "\n\n", encoding="utf-8")
    return _Files(
        ca=folder / "ca.pem",
        server=_write(folder, "server", ca.issue_cert("localhost", "127.0.0.1")),
        client=_write(folder, "client", ca.issue_cert("client")),
        expired=_write(folder, "expired", ca.issue_cert("client", not_after=_LONG_AGO)),
        stranger=_write(folder, "stranger", other.issue_cert("client")),
        tokens=folder / "tokens",
    )


@contextmanager
def _serving(model: Path, **settings: object) -> Iterator[str]:
    specs = [ModelSpec("small", str(model))]
    with BackgroundServer(Settings(models=specs, port=0, **settings)) as address:  # type: ignore[arg-type]
        yield address


@pytest.fixture(scope="module")
def mutual(small_classifier: Path, files: _Files) -> Iterator[str]:
    """A server that wants to know its clients."""
    pair = {"tls_certificate": files.server, "tls_key": files.server}
    with _serving(small_classifier, **pair, tls_client_ca=files.ca) as address:
        yield address


@pytest.fixture(scope="module")
def guarded(small_classifier: Path, files: _Files) -> Iterator[str]:
    """A server in the clear that wants a token."""
    with _serving(small_classifier, token_file=files.tokens) as address:
        yield address


def _classify(address: str, credentials: Credentials) -> None:
    with Client(address, credentials=credentials, timeout=30) as client:
        assert len(client.classify(_IMAGES).predictions) == 1


def test_mutual_tls_lets_its_own_clients_in(mutual: str, files: _Files) -> None:
    _classify(mutual, Credentials(ca=files.ca, certificate=files.client, key=files.client))


@pytest.mark.parametrize("who", ["nobody", "expired", "stranger", "in the clear"])
def test_mutual_tls_keeps_others_out(mutual: str, files: _Files, who: str) -> None:
    credentials = {
        "nobody": Credentials(ca=files.ca),
        "expired": Credentials(ca=files.ca, certificate=files.expired, key=files.expired),
        "stranger": Credentials(ca=files.ca, certificate=files.stranger, key=files.stranger),
        "in the clear": Credentials(),
    }[who]
    with pytest.raises(ServerError) as refused:
        _classify(mutual, credentials)
    assert refused.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    # And it goes on serving.
    test_mutual_tls_lets_its_own_clients_in(mutual, files)


def test_client_refuses_a_server_that_it_does_not_trust(mutual: str, files: _Files) -> None:
    with pytest.raises(ServerError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
        _classify(mutual, Credentials(tls=True))


def test_renewed_certificate_is_served_without_a_restart(
    small_classifier: Path, tmp_path: Path
) -> None:
    first, second = trustme.CA(), trustme.CA()
    served = _write(tmp_path, "served", first.issue_cert("127.0.0.1"))
    trusts = {}
    for name, ca in (("first", first), ("second", second)):
        ca.cert_pem.write_to_path(tmp_path / name)
        trusts[name] = Credentials(ca=tmp_path / name)
    with _serving(small_classifier, tls_certificate=served, tls_key=served) as address:
        _classify(address, trusts["first"])
        served.write_text("half a certificate", encoding="utf-8")
        _classify(address, trusts["first"])
        renewed = _write(tmp_path, "renewed", second.issue_cert("127.0.0.1"))
        renewed.replace(served)
        for _ in range(40):  # connections, so that every listener has some
            _classify(address, trusts["second"])
        with pytest.raises(ServerError):
            _classify(address, trusts["first"])


@pytest.mark.parametrize("token", _TOKENS)
def test_token_lets_in(guarded: str, token: str) -> None:
    _classify(guarded, Credentials(token=token))


@pytest.mark.parametrize("token", ["", "wrong", _TOKENS[0][:-1], _TOKENS[0] + "0", "x" * 2000])
def test_token_that_is_wrong_keeps_out(guarded: str, token: str) -> None:
    with (
        Client(guarded, credentials=Credentials(token=token), timeout=30) as client,
        pytest.raises(ServerError, match="expected the header authorization: Bearer") as refused,
    ):
        client.models()
    assert refused.value.code == "UNAUTHENTICATED"


def test_token_is_wanted_on_streams_and_not_for_health(guarded: str) -> None:
    with Client(guarded, timeout=30) as client:
        client.wait_ready()
        with pytest.raises(ServerError, match="authorization"):
            next(client.classify_stream([_IMAGES]))
    with Client(guarded, credentials=Credentials(token=_TOKENS[1]), timeout=30) as client:
        (answer,) = client.classify_stream([_IMAGES])
        assert not isinstance(answer, PyconvError)


@pytest.fixture(scope="module")
def tokens(files: _Files) -> Tokens:
    return Tokens(files.tokens)


@given(header=st.text(st.characters(), max_size=60))
@example(header="\udcff")  # as HTTP's headers come that are no UTF-8
def test_no_header_but_the_right_one_is_accepted(tokens: Tokens, header: str) -> None:
    assert not tokens.accept(header)
    assert not tokens.accept(f"Bearer {header}")
    assert not tokens.accept(f"Basic {_TOKENS[0]}")
    assert tokens.accept(f"bearer {_TOKENS[0]}")


def test_tokens_reload_and_stay_where_the_file_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a" * 20, encoding="utf-8")
    tokens = Tokens(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="expected API tokens, one a line, found none"):
        tokens.reload()
    assert tokens.accept("Bearer " + "a" * 20)
    path.write_text("b" * 20, encoding="utf-8")
    tokens.reload()
    assert not tokens.accept("Bearer " + "a" * 20)
    assert tokens.accept("Bearer " + "b" * 20)


@pytest.mark.parametrize(
    "text", ["# the token of the first team", "a" * 20 + " " + "b" * 20, "\ufeff" + "a" * 20]
)
def test_tokens_that_no_header_carries_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text("c" * 20 + "\n" + text, encoding="utf-8")
    with pytest.raises(InputError, match=r"token 2: expected ASCII letters, digits and -._~\+/"):
        Tokens(path)


def test_tokens_are_not_shown(
    files: _Files,
    guarded: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    assert _TOKENS[0] not in repr(Credentials(token=_TOKENS[0]))
    assert main(["serve", "--token-file", str(files.tokens), "--print-config"]) == 0
    guess = Credentials(token="guessed-guessed-guessed")
    with Client(guarded, credentials=guess) as client, pytest.raises(ServerError):
        client.models()
    output = capsys.readouterr()
    said = output.out + output.err + caplog.text
    for token in (*_TOKENS, "guessed-guessed"):
        assert token not in said


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("missing", "server"), "missing: cannot be read: No such file"),
        (("ca", "server"), "expected a certificate and the private key that belongs to it"),
        (("client", "server"), "expected a certificate and the private key that belongs to it"),
        (("server", "server", "tokens"), "tokens: expected certificates in PEM form"),
    ],
)
def test_tls_files_that_are_wrong(files: _Files, names: tuple[str, ...], message: str) -> None:
    paths = [getattr(files, name, files.ca.with_name(name)) for name in names]
    with pytest.raises(InputError, match=message):
        Tls(*paths)


def test_encrypted_key_is_refused_without_asking(files: _Files, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.server.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted)
    with pytest.raises(InputError, match="unencrypted"):
        Tls(files.server, path)


@pytest.mark.parametrize(
    ("host", "tls", "token", "warning"),
    [
        ("127.0.0.1", False, False, ""),
        ("localhost", False, False, ""),
        ("LocalHost", False, False, ""),
        ("::1", False, False, ""),
        ("0.0.0.0", False, False, "with neither TLS nor API tokens"),
        ("::", False, False, "with neither TLS nor API tokens"),
        ("192.168.1.2", False, True, "without TLS: API tokens and pictures travel in the clear"),
        ("0.0.0.0", True, False, ""),
        ("0.0.0.0", True, True, ""),
    ],
)
def test_exposure_is_warned_of(host: str, tls: bool, token: bool, warning: str) -> None:
    path = Path("file")
    settings = Settings(
        models=[ModelSpec("a", "a.onnx")],
        host=host,
        tls_certificate=path if tls else None,
        tls_key=path if tls else None,
        token_file=path if token else None,
    )
    assert warning in exposure(settings)
    assert bool(warning) == bool(exposure(settings))


def test_load_test_and_classify_through_tls_with_a_token(
    small_classifier: Path, files: _Files, make_png, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(make_png())
    (tmp_path / "token").write_text(_TOKENS[0], encoding="utf-8")
    who = ["--tls-ca", files.ca, "--tls-certificate", files.client, "--tls-key", files.client]
    who += ["--token-file", tmp_path / "token"]
    pair = {"tls_certificate": files.server, "tls_key": files.server}
    with _serving(
        small_classifier, **pair, tls_client_ca=files.ca, token_file=files.tokens
    ) as address:
        flags = [str(flag) for flag in who]
        short = ["--concurrency", "4", "--duration", "0.1", "--warmup", "0"]
        assert main(["load-test", address, *short, *flags]) == 0
        assert main(["load-test", address, *short, *flags[:-2]]) == 1
        assert main(["classify", str(picture), "--server", address, *flags]) == 0


def test_garbage_instead_of_a_handshake_harms_nobody(mutual: str, files: _Files) -> None:
    import socket

    host, _, port = mutual.partition(":")
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(500), b"\x16\x03\x01\xff\xff"):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(garbage)
    assert threading.active_count() < 50
    test_mutual_tls_lets_its_own_clients_in(mutual, files)


# -- Over HTTP -------------------------------------------------------------------------------------


def test_http_asks_for_certificates_and_tokens_too(
    settings: Settings, files: _Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    secured = BackgroundServer(
        replace(
            settings,
            models=settings.models[:1],
            engines=["native"],
            tls_certificate=files.server,
            tls_key=files.server,
            tls_client_ca=files.ca,
            token_file=files.tokens,
        )
    )

    def said(path: str, token: str = "", client: Path | None = files.client) -> str:
        trusting = ssl.create_default_context(cafile=files.ca)
        if client is not None:
            trusting.load_cert_chain(client)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"https://{secured.http_address}{path}", headers=headers)
        with urllib.request.urlopen(request, context=trusting, timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def ask(path: str, token: str = "", client: Path | None = files.client) -> int:
        try:
            said(path, token, client)
            return 200
        except urllib.error.HTTPError as error:
            return error.code

    with secured:
        assert ask("/v2", _TOKENS[0]) == 200
        assert ask("/v2", _TOKENS[0][:-1]) == 401
        assert ask("/v2") == 401
        assert ask("/metrics") == 401
        assert ask("/v2/health/ready") == 200
        assert ask("/web/../v2") == 404  # no way around by the open part
        with pytest.raises(OSError, match=r"certificate required|closed|reset"):
            ask("/v2/health/ready", client=None)
        deadline = time.monotonic() + 30
        while "over HTTP failed: PEER_DID_NOT_RETURN_A_CERTIFICATE" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        who = Credentials(ca=files.ca, certificate=files.client, key=files.client, token="wrong")
        with (
            Client(secured.address, credentials=who, timeout=30) as caller,
            pytest.raises(ServerError),
        ):
            caller.models()
        page = said("/metrics", _TOKENS[0])
        assert 'pyconv_requests_total{code="UNAUTHENTICATED",model="",version=""} 4.0' in page


def test_http_serves_a_renewed_certificate_without_a_restart(
    small_classifier: Path, tmp_path: Path
) -> None:
    first, second = trustme.CA(), trustme.CA()
    served = _write(tmp_path, "served", first.issue_cert("127.0.0.1"))
    second.cert_pem.write_to_path(tmp_path / "second")
    specs = [ModelSpec("small", str(small_classifier))]
    pair = {"tls_certificate": served, "tls_key": served}
    server = BackgroundServer(Settings(models=specs, port=0, http_port=0, **pair))  # type: ignore[arg-type]

    def ask() -> int:
        trusting = ssl.create_default_context(cafile=tmp_path / "second")
        url = f"https://{server.http_address}/v2/health/ready"
        with urllib.request.urlopen(url, context=trusting, timeout=30) as answer:
            return int(answer.status)

    with server:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            ask()
        _write(tmp_path, "renewed", second.issue_cert("127.0.0.1")).replace(served)
        assert ask() == 200
        served.write_text("half a certificate", encoding="utf-8")
        assert ask() == 200
