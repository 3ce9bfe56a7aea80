"""Valid and invalid server certificates, and a TLS proxy for a server without TLS.

The PostgreSQL from PyPI is built without TLS. For a client, the proxy behaves the same.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
OpenStream = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Certificates:
    """A test CA, the file with its root certificate, and server certificates.

    It also has a CA like that of `openssl req -x509`, and an intermediate CA of the first one.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._intermediate = self._ca.create_child_ca()
        plain, self._plain_certificate = _plain_authority()
        self.ca_file = directory / "roots.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self.intermediate_file = directory / "intermediate.pem"
        self._intermediate.cert_pem.write_to_path(str(self.intermediate_file))
        self.plain_ca_file = directory / "plain.pem"
        self.plain_ca_file.write_bytes(plain)

    def issue(self, name: str) -> trustme.LeafCert:
        """Issue a certificate by its name: `right`, `wrong name`, `expired` or `... CA`."""
        past = datetime.now(UTC) - timedelta(days=1)
        makers: dict[str, Callable[[], trustme.LeafCert]] = {
            "right": lambda: self._ca.issue_cert("localhost"),
            "wrong name": lambda: self._ca.issue_cert("db.example.org"),
            "expired": lambda: self._ca.issue_cert("localhost", not_after=past),
            "unknown CA": lambda: trustme.CA().issue_cert("localhost"),
            "plain CA": lambda: self._plain_certificate,
            "intermediate CA": lambda: self._intermediate.issue_cert("localhost"),
        }
        return makers[name]()


def _plain_authority() -> tuple[bytes, trustme.LeafCert]:
    """Create a CA certificate without keyUsage, and a certificate for localhost signed by it."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("CA", "server")]
    extensions: list[x509.ExtensionType] = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("localhost")]),
    ]
    authority, server = (
        x509.CertificateBuilder()
        .issuer_name(names[0])
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=extension is extensions[0])
        .sign(keys[0], hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        for name, key, extension in zip(names, keys, extensions, strict=True)
    )
    key = keys[1].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return authority, trustme.LeafCert(key, server, [])


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def tls_proxy(
    open_stream: OpenStream, certificate: trustme.LeafCert | None
) -> AsyncIterator[int]:
    """Start a TLS proxy with this certificate, and yield its port. Without one it rejects TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if certificate is not None:
        certificate.configure_cert(context)
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        plain = writer.transport
        try:
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"N" if certificate is None else b"S")
            with suppress(OSError):  # the client does not trust the certificate
                await relay_tls(reader, writer)
        finally:
            writer.close()
            plain.abort()

    async def relay_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        from_server, to_server = await open_stream()
        try:
            await asyncio.gather(_pass(reader, to_server), _pass(from_server, writer))
        finally:
            to_server.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
