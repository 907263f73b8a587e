"""Metrics, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recordings.errors import InputError
from service.observability.metrics import Metrics

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana" / "penfield.json"


def reported():
    metrics = Metrics()
    metrics.observe_batch("ridge", 3, 0.2, "encode")
    metrics.observe_wait("ridge", 0.01)
    metrics.set_depth("ridge", 7)
    metrics.set_loaded("ridge", True)
    metrics.count_jobs(lambda: {"running": 2})
    metrics.requests.labels("penfield.v1.EncodingService/Encode", "OK").inc()
    return metrics


def test_metrics_over_http_on_loopback_alone():
    metrics = reported()
    port, end = metrics.serve(0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        with pytest.raises(InputError, match="cannot be had"):
            metrics.serve(port)
    finally:
        end()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["penfield_queue_depth", "ridge"] == 7
    assert samples["penfield_batch_size_sum", "ridge"] == 3
    assert samples["penfield_model_duration_seconds_count", "encode", "ridge"] == 1
    assert samples["penfield_model_loaded", "ridge"] == 1
    assert samples["penfield_jobs", "running"] == 2
    assert samples["penfield_rpc_requests_total", "OK", "penfield.v1.EncodingService/Encode"] == 1
    assert samples[("process_resident_memory_bytes",)] > 1e6
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_dashboard_asks_for_metrics_that_exist():
    names = {sample.name for family in reported().registry.collect() for sample in family.samples}
    # Without a call there are no samples yet.
    families = [family.name for family in reported().registry.collect()]
    names |= {f"{family}{end}" for family in families for end in ("", "_bucket", "_count", "_sum", "_total")}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) >= 10
    asked = {name for query in queries for name in re.findall(r"\b(?:penfield|process)_\w+", query)}
    assert asked <= names
    assert {"penfield_rpc_requests_total", "penfield_queue_depth", "penfield_batch_size_sum"} <= asked
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
