"""Clients take all the file descriptors they can get: the rest goes on, and all ports serve again afterwards."""

import contextlib
import resource
import socket
import time

import grpc
import httpx
import pytest
from conservation import scrape
from harness import KEY, Master, fathom, wait_for
from raw_http import descriptors_of
from test_bench import SimWorker

# Below it, a quarter is kept from clients.
DESCRIPTORS = 400
HEADERS = {"Authorization": f"Bearer {KEY}"}


def allow(master, descriptors):
    hard = resource.prlimit(master.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (hard if descriptors is None else descriptors, hard))


@pytest.fixture
def master(tmp_path):
    with (
        Master(tmp_path) as master,
        SimWorker(tmp_path, master.link_address, "free,step_us=5000") as worker,
    ):
        worker.wait_ready()
        master.wait_ready()
        yield master
        master.check_alive()
        worker.check_alive()


@pytest.fixture
def ask(master, stubs):
    """ask() answers a whole request over gRPC, by a connection of its own."""
    pb, services = stubs
    request = pb.GenerateRequest(model="tiny", tokens=pb.TokenInput(ids=[1, 2, 3]), stop=pb.Stop(max_tokens=5))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]

    def make():
        with grpc.insecure_channel(master.grpc_address, options=options) as channel:
            call = services.InferenceStub(channel).Generate(
                request, metadata=(("authorization", f"Bearer {KEY}"),), timeout=10, wait_for_ready=True
            )
            return sum(len(message.token_ids) for message in call)

    return make


def flood(stack, port, count):
    """Connections that say nothing; those that are refused count too."""
    for _ in range(count):
        connection = stack.enter_context(socket.socket())
        connection.settimeout(2)
        with contextlib.suppress(OSError):
            connection.connect(("127.0.0.1", port))


def counted(master, family, **labels):
    return scrape(f"http://127.0.0.1:{master.ports()['metrics']}")(family, **labels)


def complete(master):
    body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 5}
    answer = httpx.post(f"{master.url}/v1/completions", json=body, headers=HEADERS, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer


def workers(master):
    done = fathom("workers", "--admin", f"127.0.0.1:{master.ports()['admin']}", "--key", KEY)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_flood_of_the_grpc_port_leaves_descriptors_for_the_rest(master, ask):
    assert ask() == 5
    lost = counted(master, "fathom_master_attempts_lost_total")
    allow(master, DESCRIPTORS)
    with contextlib.ExitStack() as stack:
        flood(stack, master.ports()["grpc"], DESCRIPTORS + 50)
        wait_for(
            lambda: counted(master, "fathom_master_grpc_connections_refused_total", port="grpc") >= 100, "refusals", 8
        )
        assert descriptors_of(master) < DESCRIPTORS
        assert "sim" in workers(master)
        # What HTTP clients may have is gone too, but they are told.
        answer = httpx.get(f"{master.url}/v1/models", headers=HEADERS, timeout=10)
        assert answer.status_code == 503
        assert "accept" not in master.log()
    assert ask() == 5
    complete(master)
    assert counted(master, "fathom_master_attempts_lost_total") == lost


def test_every_port_accepts_again_after_there_were_no_descriptors_at_all(master, ask, tmp_path):
    assert ask() == 5
    ports = master.ports()
    with httpx.Client(base_url=master.url, headers=HEADERS, timeout=10) as client:
        assert client.get("/v1/models").status_code == 200
        allow(master, 10)
        with contextlib.ExitStack() as stack:
            for port in ("grpc", "admin", "link", "http", "metrics"):
                flood(stack, ports[port], 20)
            # A connection that was there is served, by the worker that was there.
            body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 100}
            assert client.post("/v1/completions", json=body).status_code == 200
            time.sleep(0.5)
    allow(master, None)
    assert ask() == 5
    complete(master)
    assert "sim" in workers(master)
    with SimWorker(tmp_path, master.link_address, "free,step_us=5000", name="second") as second:
        second.wait_ready()
        wait_for(lambda: "second" in workers(master), "another worker is linked")
        assert ask() == 5
