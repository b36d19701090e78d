"""Garbage on every port, and configurations that cannot work."""

import random
import socket

import httpx
import openai
import pytest
from harness import BIN, KEY, TINY, Process

STARTS = [
    b"",
    b"\x00" * 64,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


def throw(port, data):
    """Sends bytes and reads whatever comes until the other side closes or stays silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.3)
        try:
            connection.sendall(data)
            while connection.recv(65536):
                pass
        except OSError:
            pass


def test_garbage_on_every_port_harms_nobody(own_cluster):
    master, worker = own_cluster.master.ports(), own_cluster.worker.ports()
    dice = random.Random(7)
    noise = [bytes(dice.randrange(256) for _ in range(dice.randrange(1, 3000))) for _ in range(12)]
    for port in [*master.values(), *worker.values()]:
        for data in STARTS + noise:
            throw(port, data)
    own_cluster.master.check_alive()
    own_cluster.worker.check_alive()
    with openai.OpenAI(base_url=f"{own_cluster.url}/v1", api_key=KEY, max_retries=0) as client:
        messages = [{"role": "user", "content": "What is Fathom?"}]
        answer = client.chat.completions.create(model="tiny", temperature=0, messages=messages)
    assert answer.choices[0].message.content.startswith("Fathom is")


BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"model": "tiny"}',
    b'{"model": "tiny", "messages": "hello"}',
    b'{"model": 5, "messages": []}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": {"a": 1}}]}',
    b'{"model": "tiny", "messages": [null]}',
    b'\xff\xfe{"model": "tiny"}',
    b"[" * 100000,
    b'{"a":' * 50000,
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b[:40]))
def test_bad_bodies_get_an_error_in_form(cluster, body):
    headers = cluster.headers() | {"Content-Type": "application/json"}
    answer = httpx.post(f"{cluster.url}/v1/chat/completions", content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["message"]


def test_http_manners(cluster):
    url, headers = cluster.url, cluster.headers()
    assert httpx.get(f"{url}/nowhere", headers=headers).status_code == 404
    assert httpx.get(f"{url}/v1/chat/completions", headers=headers).status_code == 405
    chat = f"{url}/v1/chat/completions"
    assert httpx.post(chat, content=b"a=b", headers=headers | {"Content-Type": "text/plain"}).status_code == 415
    huge = httpx.post(chat, content=b" " * (33 << 20), headers=headers | {"Content-Type": "application/json"})
    assert huge.status_code == 413


def test_other_hosts_and_origins_are_refused(cluster):
    """A web page elsewhere must not reach the local server through the user's browser."""
    models = f"{cluster.url}/v1/models"
    assert httpx.get(models, headers=cluster.headers() | {"Host": "evil.example"}).status_code in (400, 403, 421)
    answer = httpx.get(models, headers=cluster.headers() | {"Origin": "http://evil.example"})
    assert answer.status_code in (400, 403)
    assert "access-control-allow-origin" not in answer.headers


MASTER = [
    "--http-port",
    0,
    "--grpc-port",
    0,
    "--admin-port",
    0,
    "--link-port",
    0,
    "--metrics-port",
    0,
    "--insecure-link",
]
WORKER = ["--master", "127.0.0.1:1", "--metrics-port", 0, "--insecure-link"]


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("fathom-master", [*MASTER, "--model", TINY], "keys"),
        ("fathom-master", [*MASTER, "--open", "--model", "/nonexistent"], "/nonexistent"),
        ("fathom-master", [*MASTER, "--open", "--bind", "0.0.0.0", "--model", TINY], ""),
        ("fathom-master", [*MASTER, "--model", TINY, "--keys-file", "/nonexistent"], "/nonexistent"),
        ("fathom-master", ["--config", "{folder}/bad.yaml"], "no_such_key"),
        ("fathom-master", [*MASTER[:-1], "--open", "--model", TINY], "link_tls"),
        ("fathom-master", ["--no-such-flag"], "no-such-flag"),
        ("fathom-worker", [*WORKER, "--model", "/nonexistent"], "/nonexistent"),
        ("fathom-worker", ["--metrics-port", 0, "--model", TINY, "--insecure-link"], "master"),
        ("fathom-worker", [*WORKER, "--model", TINY, "--device", "toaster"], "toaster"),
        ("fathom-worker", [*WORKER, "--model", TINY, "--dtype", "f3"], "f3"),
        ("fathom-worker", [*WORKER[:-1], "--model", TINY], "insecure_link"),
        ("fathom-worker", ["--no-such-flag"], "no-such-flag"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_bad_configurations_end_at_once_and_say_why(tmp_path, program, arguments, said):
    (tmp_path / "bad.yaml").write_text("master:\n  no_such_key: 1\n")
    arguments = [str(a).replace("{folder}", str(tmp_path)) for a in arguments]
    with Process("bad", [BIN / program, *arguments], tmp_path) as process:
        code = process.wait(20)
        assert code not in (0, None) and code > 0, process.log()
        assert said in process.log()


def test_port_in_use_is_said(cluster, tmp_path):
    port = cluster.master.ports()["http"]
    arguments = [
        "--open",
        "--model",
        TINY,
        "--http-port",
        port,
        "--grpc-port",
        0,
        "--admin-port",
        0,
        "--link-port",
        0,
        "--metrics-port",
        0,
        "--insecure-link",
    ]
    with Process("second", [BIN / "fathom-master", *arguments], tmp_path) as process:
        assert process.wait(20) > 0
        assert str(port) in process.log()
