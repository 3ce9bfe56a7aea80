"""The guard in docs/guides/authentication.py, with a key server on 127.0.0.1."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import ModuleType
from typing import Any

import asyncpg
import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from app.asgi import create_app
from app.http.middleware import HTTPMiddleware
from app.settings import Settings
from tests.support.client import ContractClient, tasks_of
from tests.support.lifespan import running
from tests.support.process import ROOT, environment, eventually

PAGE = ROOT / "docs/guides/authentication.md"
PROGRAM = PAGE.with_suffix(".py")
ISSUER = "https://login.example/"
AUDIENCE = "https://tasks.example"
ALICE = "alice"
# Of the form that Auth0 gives its users.
CAROL = "auth0|5f7c8ec7c33c6c004bbafe82"
ORIGIN = "http://localhost:5173"
pytestmark = pytest.mark.requirement("FR-042")
Claims = dict[str, Any]


class SigningKey:
    """A key pair of the issuer."""

    def __init__(self, algorithm: str, key_id: str) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private: Any = {
            "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()

    def jwk(self) -> dict[str, Any]:
        """The public key as the issuer publishes it."""
        public: Any = get_default_algorithms()[self.algorithm]
        jwk: dict[str, Any] = public.to_jwk(self.private.public_key(), as_dict=True)
        return jwk | {"kid": self.key_id}

    def sign(self, header: dict[str, Any] | None = None, **claims: object) -> str:
        """Sign a token for Alice; a claim of None is left out."""
        defaults = {"iss": ISSUER, "aud": AUDIENCE, "sub": ALICE, "exp": int(time.time()) + 300}
        payload = {name: value for name, value in (defaults | claims).items() if value is not None}
        extra = {"kid": self.key_id} | (header or {})
        return jwt.encode(payload, self.private, self.algorithm, extra)


class KeyServer(ThreadingHTTPServer):
    """The JWKS endpoint of the issuer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/jwks"
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.status = 200
        self.requests = 0
        self.may_respond = Event()
        self.may_respond.set()
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Close the port, as if the server were down."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        server.may_respond.wait(10)
        body = json.dumps({"keys": server.keys}).encode() if server.body is None else server.body
        with suppress(ConnectionError):
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Clock:
    """The clock of the guard's key cache."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program of the guide as a module."""
    spec = importlib.util.spec_from_file_location("authentication_guide", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rsa_key() -> SigningKey:
    return SigningKey("RS256", "rsa-1")


@pytest.fixture
def clock(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(program, "monotonic", clock)
    return clock


@pytest.fixture
def key_server(rsa_key: SigningKey) -> Iterator[KeyServer]:
    server = KeyServer()
    server.keys = [rsa_key.jwk()]
    yield server
    server.may_respond.set()
    server.stop()


class CurrentGuard:
    """The guard of the current test: it takes long to create an application."""

    guard: Any = None

    async def __call__(self, *arguments: object) -> None:
        await self.guard(*arguments)


@pytest.fixture(scope="module")
async def guarded_app(settings: Settings) -> AsyncIterator[tuple[HTTPMiddleware, CurrentGuard]]:
    allowing = msgspec.structs.replace(settings, cors_origins=(ORIGIN,))
    current = CurrentGuard()
    async with running(create_app(allowing, guards=[current])) as app:
        yield app, current


@pytest.fixture
async def service(
    program: ModuleType,
    clock: Clock,  # noqa: ARG001 - the guard must see only this clock
    key_server: KeyServer,
    guarded_app: tuple[HTTPMiddleware, CurrentGuard],
    database: asyncpg.Connection,  # noqa: ARG001 - truncated
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ContractClient]:
    """A client of the service with a new guard."""
    monkeypatch.setattr(program, "FETCH_TIMEOUT", 30)  # the machine may be busy
    app, current = guarded_app
    current.guard = program.OwnTasksOnly(key_server.url, ISSUER, AUDIENCE)
    async with ContractClient(app) as client:
        yield client


async def get_tasks(
    service: ContractClient, token: str | None, user: str = ALICE, **headers: str
) -> httpx.Response:
    credentials = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await service.get(tasks_of(user), headers=credentials | headers)


def assert_rejected(response: httpx.Response, status: int, title: str, detail: str) -> None:
    assert response.json() == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": response.headers["x-request-id"],
        "trace_id": None,
        "errors": [],
    }
    assert response.status_code == status


def assert_invalid(response: httpx.Response) -> None:
    assert_rejected(response, 401, "Unauthorized", "The token is invalid.")
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def assert_unavailable(response: httpx.Response) -> None:
    detail = "The token cannot be verified now. Nothing was changed."
    assert_rejected(response, 503, "Service Unavailable", detail)
    assert response.headers["retry-after"] == "10"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("published", ["with alg", "without alg"])
async def test_own_tasks(
    service: ContractClient, key_server: KeyServer, algorithm: str, published: str
) -> None:
    key = SigningKey(algorithm, "key-1")
    extra = {"alg": algorithm, "use": "sig"} if published == "with alg" else {}
    key_server.keys = [key.jwk() | extra]
    headers = {"Authorization": f"Bearer {key.sign()}"}
    created = await service.post(tasks_of(ALICE), json={"title": "Buy milk"}, headers=headers)
    tasks = await service.get(tasks_of(ALICE), headers=headers)
    assert created.status_code == 201
    assert [task["id"] for task in tasks.json()["items"]] == [created.json()["id"]]


async def test_encoded_user_id(service: ContractClient, rsa_key: SigningKey) -> None:
    token = rsa_key.sign(sub=CAROL)
    encoded = CAROL.replace("|", "%7C")
    assert (await get_tasks(service, token, user=encoded)).status_code == 200


async def test_scheme_in_lower_case(service: ContractClient, rsa_key: SigningKey) -> None:
    response = await get_tasks(service, None, Authorization=f"bearer {rsa_key.sign()}")
    assert response.status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_tasks_of_another_user(
    service: ContractClient, rsa_key: SigningKey, database: asyncpg.Connection, method: str
) -> None:
    on_list = method in {"GET", "HEAD", "POST"}
    path = tasks_of("bob") + ("" if on_list else "/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
    body = {"title": "Buy milk", "description": None, "completed": False}
    response = await service.request(
        method, path, json=body, headers={"Authorization": f"Bearer {rsa_key.sign()}"}
    )
    assert response.status_code == 403
    assert "www-authenticate" not in response.headers
    if method != "HEAD":
        assert_rejected(response, 403, "Forbidden", "The token belongs to another user.")
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.parametrize("authorization", [None, "", "Basic YWxpY2U6", "bearers x"])
async def test_without_a_token(service: ContractClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = await service.get(tasks_of(ALICE), headers=headers)
    assert_rejected(response, 401, "Unauthorized", "Send a bearer token.")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.yaml", "/openapi.json"])
async def test_public_paths(service: ContractClient, key_server: KeyServer, path: str) -> None:
    assert (await service.get(path)).status_code == 200
    assert key_server.requests == 0


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 4_000_000_000},
        {"aud": "https://other.example"},
        {"aud": ["https://other.example", "account"]},
        {"aud": None},
        {"iss": "https://login.example"},
        {"iss": "https://evil.example/"},
        {"iss": None},
        {"sub": None},
    ],
    ids=str,
)
async def test_wrong_claims(service: ContractClient, rsa_key: SigningKey, claims: Claims) -> None:
    assert_invalid(await get_tasks(service, rsa_key.sign(**claims)))


async def test_expired_token(service: ContractClient, rsa_key: SigningKey) -> None:
    assert_invalid(await get_tasks(service, rsa_key.sign(exp=int(time.time()) - 31)))


async def test_empty_subject(service: ContractClient, rsa_key: SigningKey) -> None:
    assert (await get_tasks(service, rsa_key.sign(sub=""))).status_code == 403


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE, "account"]], ids=str)
async def test_audience(service: ContractClient, rsa_key: SigningKey, audience: object) -> None:
    assert (await get_tasks(service, rsa_key.sign(aud=audience))).status_code == 200


async def test_clock_difference(service: ContractClient, rsa_key: SigningKey) -> None:
    token = rsa_key.sign(exp=int(time.time()) - 10, nbf=int(time.time()) + 10)
    assert (await get_tasks(service, token)).status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "...",
        f"{base64url(b'[]')}.e30.",
        f"{base64url(b'[' * 5000)}.e30.",
        f"{base64url(json.dumps({'alg': 'RS256', 'kid': ['rsa-1']}).encode())}.e30.",
        f"{base64url(json.dumps({'alg': 'RS256', 'kid': 'rsa-1'}).encode())}.e30.",
        f"{base64url(json.dumps({'kid': 'rsa-1'}).encode())}.e30.",
        "\u00e9.\u00e9.\u00e9",
    ],
)
async def test_malformed_token(service: ContractClient, token: str) -> None:
    authorization = f"Bearer {token}".encode("latin-1")
    response = await service.get(tasks_of(ALICE), headers=[(b"authorization", authorization)])
    assert_invalid(response)


# --- forged tokens -----------------------------------------------------------------------------


async def test_key_of_another_issuer(service: ContractClient) -> None:
    assert_invalid(await get_tasks(service, SigningKey("RS256", "rsa-1").sign()))


async def test_unknown_key_id(service: ContractClient) -> None:
    assert_invalid(await get_tasks(service, SigningKey("RS256", "unknown").sign()))


async def test_token_without_key_id(service: ContractClient, rsa_key: SigningKey) -> None:
    header = {"alg": "RS256", "typ": "JWT"}
    claims = rsa_key.sign().split(".")[1]
    signed = f"{base64url(json.dumps(header).encode())}.{claims}"
    algorithm: Any = get_default_algorithms()["RS256"]
    signature = base64url(algorithm.sign(signed.encode(), rsa_key.private))
    assert_invalid(await get_tasks(service, f"{signed}.{signature}"))


async def test_key_inside_the_token(service: ContractClient, key_server: KeyServer) -> None:
    forged = SigningKey("RS256", "rsa-1")
    header = {"jwk": forged.jwk(), "jku": f"{key_server.url}/evil", "x5u": key_server.url}
    assert_invalid(await get_tasks(service, forged.sign(header)))
    assert key_server.requests == 1


async def test_changed_claims(service: ContractClient, rsa_key: SigningKey) -> None:
    header, _, signature = rsa_key.sign().split(".")
    _, claims, _ = rsa_key.sign(sub="bob").split(".")
    assert_invalid(await get_tasks(service, f"{header}.{claims}.{signature}", user="bob"))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
async def test_unsigned_token(service: ContractClient, rsa_key: SigningKey, algorithm: str) -> None:
    claims = rsa_key.sign().split(".")[1]
    header = base64url(json.dumps({"alg": algorithm, "kid": rsa_key.key_id}).encode())
    assert_invalid(await get_tasks(service, f"{header}.{claims}."))


@pytest.mark.parametrize("secret", ["PEM", "DER"])
async def test_public_key_as_hmac_secret(
    service: ContractClient, rsa_key: SigningKey, secret: str
) -> None:
    public = rsa_key.private.public_key()
    material = public.public_bytes(getattr(Encoding, secret), PublicFormat.SubjectPublicKeyInfo)
    claims = rsa_key.sign().split(".")[1]
    header = base64url(json.dumps({"alg": "HS256", "kid": rsa_key.key_id}).encode())
    signed = f"{header}.{claims}"
    signature = base64url(hmac.new(material, signed.encode(), hashlib.sha256).digest())
    assert_invalid(await get_tasks(service, f"{signed}.{signature}"))


async def test_published_hmac_key(
    service: ContractClient, key_server: KeyServer, rsa_key: SigningKey
) -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    key_server.keys.append({"kty": "oct", "kid": "hmac-1", "k": base64url(secret)})
    claims = jwt.decode(rsa_key.sign(), options={"verify_signature": False})
    assert_invalid(await get_tasks(service, jwt.encode(claims, secret, "HS256", {"kid": "hmac-1"})))


async def test_algorithm_of_another_key(
    service: ContractClient, key_server: KeyServer, rsa_key: SigningKey
) -> None:
    elliptic = SigningKey("ES256", "ec-1")
    key_server.keys.append(elliptic.jwk())
    assert_invalid(await get_tasks(service, elliptic.sign({"kid": rsa_key.key_id})))


async def test_encryption_key(service: ContractClient, key_server: KeyServer) -> None:
    encryption = SigningKey("RS256", "enc-1")
    key_server.keys.append(encryption.jwk() | {"use": "enc"})
    assert_invalid(await get_tasks(service, encryption.sign()))


# --- keys --------------------------------------------------------------------------------------


async def test_keys_are_cached(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    for _ in range(3):
        assert (await get_tasks(service, rsa_key.sign())).status_code == 200
        clock.now += 99
    assert key_server.requests == 1
    clock.now += 3
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    assert key_server.requests == 2


async def test_concurrent_requests_fetch_once(
    service: ContractClient, key_server: KeyServer, rsa_key: SigningKey
) -> None:
    responses = await asyncio.gather(*(get_tasks(service, rsa_key.sign()) for _ in range(10)))
    assert [response.status_code for response in responses] == [200] * 10
    assert key_server.requests == 1


async def test_unknown_key_ids_fetch_once_per_interval(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    for interval in range(1, 3):
        clock.now += 10
        tokens = [rsa_key.sign({"kid": f"unknown-{number}"}) for number in range(10)]
        for response in await asyncio.gather(*(get_tasks(service, token) for token in tokens)):
            assert_invalid(response)
        assert key_server.requests == 1 + interval


async def test_rotation(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    new_key = SigningKey("ES256", "ec-2")
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    key_server.keys = [rsa_key.jwk(), new_key.jwk()]
    clock.now += 9
    assert_invalid(await get_tasks(service, new_key.sign()))
    clock.now += 1
    assert (await get_tasks(service, new_key.sign())).status_code == 200
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200

    key_server.keys = [new_key.jwk()]
    clock.now += 299
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    clock.now += 1
    assert_invalid(await get_tasks(service, rsa_key.sign()))
    assert (await get_tasks(service, new_key.sign())).status_code == 200


# --- the key server is down --------------------------------------------------------------------


def close_port(server: KeyServer) -> None:
    server.stop()


def fail(server: KeyServer) -> None:
    server.status = 500


def redirect(server: KeyServer) -> None:
    server.status = 302


def send_html(server: KeyServer) -> None:
    server.body = b"<html>Sign in</html>"


def send_no_keys(server: KeyServer) -> None:
    server.body = b'{"keys": []}'


def send_malformed_key(server: KeyServer) -> None:
    server.body = b'{"keys": [{"kty": "RSA", "kid": "rsa-1", "alg": ["RS256"]}]}'


OUTAGES = [close_port, fail, redirect, send_html, send_no_keys, send_malformed_key]
outages = pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
Outage = Callable[[KeyServer], None]


@outages
async def test_outage_without_cached_keys(
    service: ContractClient, key_server: KeyServer, rsa_key: SigningKey, outage: Outage
) -> None:
    outage(key_server)
    assert_unavailable(await get_tasks(service, rsa_key.sign()))
    assert_unavailable(await get_tasks(service, rsa_key.sign()))
    assert key_server.requests <= 1


@outages
async def test_outage_with_cached_keys(
    service: ContractClient,
    key_server: KeyServer,
    clock: Clock,
    rsa_key: SigningKey,
    outage: Outage,
) -> None:
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    outage(key_server)
    for _ in range(2):
        clock.now += 300
        assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    assert_unavailable(await get_tasks(service, SigningKey("ES256", "ec-2").sign()))
    assert_invalid(await get_tasks(service, SigningKey("RS256", "rsa-1").sign()))


async def test_recovery(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    key_server.status = 500
    assert_unavailable(await get_tasks(service, rsa_key.sign()))
    key_server.status = 200
    clock.now += 10
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200


async def test_cached_keys_have_a_maximum_age(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    key_server.status = 500
    clock.now += 86_399
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    clock.now += 10
    assert_unavailable(await get_tasks(service, rsa_key.sign()))


async def test_slow_key_server(
    service: ContractClient,
    program: ModuleType,
    key_server: KeyServer,
    rsa_key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "FETCH_TIMEOUT", 0.05)
    key_server.may_respond.clear()
    assert_unavailable(await get_tasks(service, rsa_key.sign()))


async def test_fetch_does_not_block_the_event_loop(
    service: ContractClient, key_server: KeyServer, rsa_key: SigningKey
) -> None:
    key_server.may_respond.clear()
    waiting = asyncio.create_task(get_tasks(service, rsa_key.sign()))
    while key_server.requests == 0:  # noqa: ASYNC110 - another thread counts them
        await asyncio.sleep(0.001)
    assert (await service.get("/livez")).status_code == 200
    assert not waiting.done()
    key_server.may_respond.set()
    assert (await waiting).status_code == 200


async def test_one_request_waits_for_expired_keys(
    service: ContractClient, key_server: KeyServer, clock: Clock, rsa_key: SigningKey
) -> None:
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    clock.now += 300
    key_server.may_respond.clear()
    waiting = asyncio.create_task(get_tasks(service, rsa_key.sign()))
    while key_server.requests == 1:  # noqa: ASYNC110 - another thread counts them
        await asyncio.sleep(0.001)
    assert (await get_tasks(service, rsa_key.sign())).status_code == 200
    assert not waiting.done()
    key_server.may_respond.set()
    assert (await waiting).status_code == 200


# --- browsers, and the program as a process ----------------------------------------------------


async def test_preflight_needs_no_token(service: ContractClient) -> None:
    response = await service.options(
        tasks_of(ALICE),
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        },
    )
    assert response.status_code == 204
    assert response.headers["access-control-allow-headers"] == "authorization"


async def test_page_can_read_a_rejection(service: ContractClient) -> None:
    response = await get_tasks(service, None, Origin=ORIGIN)
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == ORIGIN


def test_page_shows_the_program() -> None:
    page = PAGE.read_text("utf-8")
    [shown] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown == PROGRAM.read_text("utf-8")


def test_program_serves(database_url: str, key_server: KeyServer, rsa_key: SigningKey) -> None:
    page = PAGE.read_text("utf-8")
    [module] = re.findall(r"^ +\.venv/bin/python -m (\S+)$", page, re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment(
            PORT=port,
            DATABASE_URL=database_url,
            JWKS_URL=key_server.url,
            JWT_ISSUER=ISSUER,
            JWT_AUDIENCE=AUDIENCE,
        ),
        stdout=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def is_alive() -> bool:
                with suppress(httpx.ConnectError):
                    return client.get("/livez").is_success
                return False

            eventually(is_alive)
            headers = {"Authorization": f"Bearer {rsa_key.sign()}"}
            assert client.get(tasks_of(ALICE), headers=headers).status_code == 200
            assert client.get(tasks_of("bob"), headers=headers).status_code == 403
            assert client.get(tasks_of(ALICE)).status_code == 401
    finally:
        process.terminate()
        process.wait(20)
