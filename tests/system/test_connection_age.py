"""Connections that are old take no further request, and what runs on them ends undisturbed."""

import http.client
import json
import time

import grpc
import pytest
from harness import KEY, Master
from test_bench import SimWorker


@pytest.fixture
def master(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("master: {limits: {connection_age_seconds: 1}}\n")
    with (
        Master(tmp_path, extra=["--config", config]) as master,
        SimWorker(tmp_path, master.link_address, "free,step_us=10000") as worker,
    ):
        worker.wait_ready()
        master.wait_ready()
        yield master


def test_over_grpc(master, stubs):
    pb, services = stubs
    metadata = (("authorization", f"Bearer {KEY}"),)
    request = pb.GenerateRequest(model="tiny", tokens=pb.TokenInput(ids=[1, 2, 3]), stop=pb.Stop(max_tokens=300))
    with grpc.insecure_channel(master.grpc_address) as channel:
        states = []
        channel.subscribe(states.append)
        stub = services.InferenceStub(channel)
        # Three seconds on a connection that gets no older than one; the next call opens another.
        for _ in range(2):
            tokens = sum(len(message.token_ids) for message in stub.Generate(request, metadata=metadata, timeout=30))
            assert tokens == 300
        assert states.count(grpc.ChannelConnectivity.READY) == 2


def test_over_http(master):
    connection = http.client.HTTPConnection("127.0.0.1", master.ports()["http"], timeout=30)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    def ask(max_tokens):
        body = json.dumps({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": max_tokens})
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        assert len(json.loads(answer.read())["choices"][0]["text"]) == max_tokens
        return answer.getheader("Connection")

    connection.connect()
    first = connection.sock
    assert ask(3) != "close"
    assert connection.sock is first
    time.sleep(1.1)
    assert ask(150) == "close"
