"""Who may talk to the server, and how the server shows who it is: TLS and API tokens.

Certificates and keys are read again when their files change, so that renewing them needs no
restart; the tokens are read at start and by `Tokens.reload`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc

from pyconv.credentials import read
from pyconv.errors import InputError
from pyconv.server.settings import Settings

_log = logging.getLogger("pyconv.server")

_LEAST_TOKEN = 16
_SCHEME = "bearer"
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""What a header can carry: https://www.rfc-editor.org/rfc/rfc6750#section-2.1."""


class Tokens:
    """The API tokens that are let in. Only their hashes are kept.

    Args:
        path: a file with one token a line; several let an old and a new one in meanwhile.

    Raises:
        InputError: the file cannot be read, holds none, or a token too short to be safe.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hashes = _read_tokens(path)

    def reload(self) -> None:
        """Read the file again; the tokens stay as they were where that fails.

        Raises:
            InputError: as at first.
        """
        self._hashes = _read_tokens(self._path)

    def accept(self, authorization: str | None) -> bool:
        """Whether a header `authorization: Bearer TOKEN` lets its sender in.

        How long it takes depends neither on the tokens nor on what was sent, but for its length.
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = _hash(token.strip().encode(errors="surrogatepass"))
        # All are compared, so that the time does not tell which was nearest.
        known = [hmac.compare_digest(given, each) for each in self._hashes]
        return any(known) and scheme.lower() == _SCHEME


class _Read(NamedTuple):
    """What the files of `Tls` hold, for Python's ssl and for gRPC."""

    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Tls:
    """The server's certificate, its key, and the authorities whose clients it lets in.

    Args:
        certificate: a PEM file: the server's certificate, and those between it and the root.
        key: a PEM file with the private key.
        client_ca: a PEM file of the authorities that clients' certificates must come from (mutual
            TLS); clients need none if None.

    Raises:
        InputError: a file cannot be read, is no certificate or key, or they do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._reading = threading.Lock()
        self._stamp = self._stamps()
        self._last = self._read()

    @property
    def wants_clients_certificates(self) -> bool:
        """Whether it is mutual."""
        return self._client_ca is not None

    def ssl_context(self) -> ssl.SSLContext:
        """For a server on Python's ssl; it reads changed files before the next handshake."""
        listening = self._newest().context
        listening.sslobject_class = _Handshake

        def renew(handshake: ssl.SSLObject, _: str | None, of: ssl.SSLContext) -> None:
            handshake.context = self._newest().context

        listening.sni_callback = renew  # called with every ClientHello, with a name or without
        return listening

    def _new_context(self) -> ssl.SSLContext:
        for path in (self._certificate, self._key, self._client_ca):
            if path is not None:
                read(path)  # says which file is missing, which ssl does not
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # An encrypted key would ask for its password on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                f"TLS: {self._certificate} and {self._key}: expected a certificate and the private "
                f"key that belongs to it, unencrypted, in PEM form ({error})"
            ) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise InputError(
                    f"TLS: {self._client_ca}: expected certificates in PEM form ({error})"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one listener of gRPC, which asks before every handshake what has changed."""
        in_use = self._newest().configuration

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal in_use
            newest = self._newest().configuration
            if newest is in_use:
                return None  # keeps it
            in_use = newest
            return newest

        return grpc.dynamic_ssl_server_credentials(
            in_use,
            renewed,  # type: ignore[arg-type]  # None is allowed, by grpc's documentation
            require_client_authentication=self._client_ca is not None,
        )

    def _grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        authorities = read(self._client_ca) if self._client_ca is not None else None
        pair = (read(self._key), read(self._certificate))
        return grpc.ssl_server_certificate_configuration([pair], authorities)

    def _read(self) -> _Read:
        return _Read(self._new_context(), self._grpc_configuration())

    def _newest(self) -> _Read:
        """What the files hold, or held when they were last what they must be."""
        with self._reading:  # gRPC's handshakes are on threads of its own
            stamp = self._stamps()
            if stamp != self._stamp:
                # Whether it helps or not, the same files are not tried twice.
                self._stamp = stamp
                try:
                    self._last = self._read()
                except InputError as error:
                    _log.error("the certificate stays as it was: %s", error)
                else:
                    _log.info("the certificate was renewed")
            return self._last

    def _stamps(self) -> list[tuple[int, int]]:
        stamps = []
        for path in (self._certificate, self._key, self._client_ca):
            try:
                found = path.stat() if path is not None else None
            except OSError:
                found = None
            stamps.append((found.st_mtime_ns, found.st_ino) if found else (0, 0))
        return stamps


class _Handshake(ssl.SSLObject):
    """Tells of handshakes that fail, of which asyncio says nothing; gRPC tells of its own."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "")  # such as: certificate has expired
            _log.info("a TLS handshake over HTTP failed: %s", why or error.reason or error)
            raise


@dataclass(frozen=True, slots=True)
class Security:
    """What the settings ask for.

    Attributes:
        tls: None where the server talks in the clear.
        tokens: None where requests need none.
    """

    tls: Tls | None
    tokens: Tokens | None

    @classmethod
    def of(cls, settings: Settings) -> Security:
        """Read the files that the settings name.

        Raises:
            InputError: one is not what it must be.
        """
        tls = tokens = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            tls = Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        if settings.token_file is not None:
            tokens = Tokens(settings.token_file)
        return cls(tls, tokens)


def exposure(settings: Settings) -> str:
    """What is unsafe about where the server listens; "" where nothing is."""
    if _is_loopback(settings.host):
        return ""
    where = f"listens on {settings.host}, not on this machine alone"
    if settings.tls_certificate is None and settings.token_file is None:
        return (
            f"{where}, with neither TLS nor API tokens: whoever reaches the port may use it, and "
            "read what others send; see --tls-certificate, --tls-client-ca and --token-file"
        )
    if settings.tls_certificate is None:
        return f"{where}, without TLS: API tokens and pictures travel in the clear"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _read_tokens(path: Path) -> tuple[bytes, ...]:
    tokens = [line.strip() for line in read(path).splitlines() if line.strip()]
    if not tokens:
        raise InputError(f"{path}: expected API tokens, one a line, found none")
    for number, token in enumerate(tokens, start=1):
        if not _TOKEN.fullmatch(token):
            raise InputError(
                f"{path}: token {number}: expected ASCII letters, digits and -._~+/ alone (RFC "
                "6750), as a header carries them; every line is a token, none is a comment"
            )
        if len(token) < _LEAST_TOKEN:
            raise InputError(
                f"{path}: token {number} has {len(token)} characters, expected at least "
                f"{_LEAST_TOKEN}; openssl rand -hex 32 makes a good one"
            )
    return tuple(_hash(token) for token in tokens)


def _hash(token: bytes) -> bytes:
    # Of one length whatever the token's is. Tokens are random, so a plain hash gives none away.
    return hashlib.sha256(token).digest()
