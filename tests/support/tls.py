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
Reach = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Certificates:
    """A test CA, the file with its root certificate, and server certificates.

    It also has a CA like that of `openssl req -x509`, and an intermediate CA of the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._intermediate = self._authority.create_child_ca()
        plain, self._plain = _plain_authority()
        self.roots = folder / "roots.pem"
        self._authority.cert_pem.write_to_path(str(self.roots))
        self.intermediate = folder / "intermediate.pem"
        self._intermediate.cert_pem.write_to_path(str(self.intermediate))
        self.plain = folder / "plain.pem"
        self.plain.write_bytes(plain)

    def made(self, kind: str) -> trustme.LeafCert:
        """Issue a certificate by its name: `right`, `wrong name`, `expired` or `... CA`."""
        past = datetime.now(UTC) - timedelta(days=1)
        makers: dict[str, Callable[[], trustme.LeafCert]] = {
            "right": lambda: self._authority.issue_cert("localhost"),
            "wrong name": lambda: self._authority.issue_cert("db.example.org"),
            "expired": lambda: self._authority.issue_cert("localhost", not_after=past),
            "unknown CA": lambda: trustme.CA().issue_cert("localhost"),
            "plain CA": lambda: self._plain,
            "intermediate CA": lambda: self._intermediate.issue_cert("localhost"),
        }
        return makers[kind]()


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
async def tls_proxy(reach: Reach, certificate: trustme.LeafCert | None) -> AsyncIterator[int]:
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
                await upgraded(reader, writer)
        finally:
            writer.close()
            plain.abort()

    async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        from_server, to_server = await reach()
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
