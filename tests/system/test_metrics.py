"""What Prometheus would read."""

import re

import httpx
import openai
import pytest
from harness import KEY
from prometheus_client.parser import text_string_to_metric_families


def scrape(url):
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


@pytest.fixture
def places(cluster):
    master, worker = cluster.master.ports(), cluster.worker.ports()
    return {
        "master's HTTP": f"http://127.0.0.1:{master['http']}/metrics",
        "master": f"http://127.0.0.1:{master['metrics']}/metrics",
        "worker": f"http://127.0.0.1:{worker['metrics']}/metrics",
    }


def test_metrics_parse_and_follow_the_naming_rules(places, client):
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4)
    for place, url in places.items():
        families = scrape(url)
        ours = [f for name, f in families.items() if name.startswith("fathom_")]
        assert ours, place
        for family in ours:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
            assert family.documentation, f"{family.name} at {place} has no help"
            assert not family.name.endswith(("_ms", "_us", "_mb")), f"{family.name}: base units only"
            for sample in family.samples:
                assert "key" not in sample.labels and "user" not in sample.labels


def test_requests_are_counted(cluster, places):
    def counted():
        total = 0.0
        for family in scrape(places["master's HTTP"]).values():
            if family.type == "counter":
                total += sum(s.value for s in family.samples if s.name.endswith("_total"))
        return total

    before = counted()
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY) as client:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    assert counted() > before


def test_probes_need_no_key_and_know_nothing_else(cluster):
    for server, port in ((cluster.master, "metrics"), (cluster.worker, "metrics"), (cluster.master, "http")):
        base = f"http://127.0.0.1:{server.ports()[port]}"
        assert httpx.get(f"{base}/health").status_code == 200
        assert httpx.get(f"{base}/ready").status_code == 200
    metrics = f"http://127.0.0.1:{cluster.worker.ports()['metrics']}"
    assert httpx.get(f"{metrics}/v1/models").status_code == 404
