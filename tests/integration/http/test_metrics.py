"""Metrics of a running service on a separate port, and the dashboard for them."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import tasks_of
from tests.support.process import ROOT, run, serving

pytestmark = pytest.mark.requirement("FR-049")

DASHBOARD = ROOT / "deploy/grafana-dashboard.json"
# Keywords and functions of PromQL.
PROMQL_WORDS = {"sum", "rate", "by", "le", "histogram_quantile", "clamp_min", "job", "instance"}


def scrape(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return each sample by its name and its label values."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(httpx.get(url).text):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[key] = sample.value
    return samples


def test_metrics_count_requests(database_url: str) -> None:
    alice = tasks_of("alice-of-the-metrics")
    with serving(DATABASE_URL=database_url, METRICS_PORT=0) as service:
        created = httpx.post(service.url + alice, json={"title": "Buy milk"})
        httpx.delete(service.url + created.headers["location"])
        httpx.get(f"{service.url}/nope")
        samples = scrape(service.startup_value("metrics"))
        api_response = httpx.get(f"{service.url}/metrics")
        assert service.stop() == 0
    counts = samples["http_server_request_duration_seconds_count"]
    tasks = "/api/v1/users/{user_id}/tasks"
    assert counts["POST", "201", tasks] == counts["GET", "404", ""] == 1
    assert counts["DELETE", "204", tasks + "/{task_id}"] == 1
    assert "alice" not in str(samples)
    assert samples["db_client_connection_count"]["idle",] == 1
    assert samples["db_client_connection_max"][()] == 10
    assert samples["process_resident_memory_bytes"][()] > 0
    # The API does not expose metrics.
    assert api_response.status_code == 404


def test_metrics_are_off_by_default(database_url: str) -> None:
    with serving(DATABASE_URL=database_url) as service:
        assert "metrics" not in service.err


def test_metrics_port_in_use_is_reported(database_url: str) -> None:
    with serving(DATABASE_URL=database_url, METRICS_PORT=0) as service:
        port = service.startup_value("metrics").rsplit(":", 1)[1].partition("/")[0]
        result = run("serve", DATABASE_URL=database_url, PORT=0, METRICS_PORT=port)
    assert result.returncode == 1
    assert f"Cannot listen on 127.0.0.1, port {port}" in result.stderr


def test_dashboard_uses_existing_metrics_and_labels(database_url: str) -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    with serving(DATABASE_URL=database_url, METRICS_PORT=0) as service:
        httpx.get(f"{service.url}/livez")
        text = httpx.get(service.startup_value("metrics")).text
    known = set(re.findall(r"^([a-z_]+)[ {]", text, re.MULTILINE))
    known |= set(re.findall(r"[{,]([a-z_]+)=", text))
    assert len(expressions) >= 8
    for expression in expressions:
        bare = re.sub(r'"[^"]*"|\$\w+|\[\w+\]', "", expression)
        assert set(re.findall(r"[a-z_]{2,}", bare)) - PROMQL_WORDS <= known
