"""Clients that break, stall, smuggle and flood: after each the master serves as before and nothing is in flight."""

import contextlib
import json
import resource
import socket
import struct
import threading
import time

import httpx
import pytest
from conservation import Count, check_conservation, wait_until_idle, worker_requests
from harness import KEY, Cluster, access_lines, wait_for
from raw_http import connect, descriptors_of, error_of, head, memory_of, post, read_all, statuses

# Ten thousand, or what this machine's limit on file descriptors leaves room for.
_, DESCRIPTORS_MAX = resource.getrlimit(resource.RLIMIT_NOFILE)
FLOOD = min(10000, DESCRIPTORS_MAX - 500)
CONNECTIONS_MAX = FLOOD * 4 // 5
CONNECTION_BYTES_MAX = 16 << 10
CONFIG = f"master:\n  limits: {{connections: {CONNECTIONS_MAX}, client_backlog_bytes: {256 << 10}}}\n"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_MAX, DESCRIPTORS_MAX))
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "fathom.yaml").write_text(CONFIG)
    with Cluster(folder, master_extra=["--config", folder / "fathom.yaml"]) as running:
        yield running


def ask(cluster, **fields):
    body = {"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": "What is Fathom?"}]} | fields
    return httpx.post(f"{cluster.url}/v1/chat/completions", json=body, headers=cluster.headers(), timeout=30)


@pytest.fixture(autouse=True)
def still_serves(target):
    yield
    target.master.check_alive()
    target.worker.check_alive()
    answer = ask(target)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].startswith("Fathom is")
    wait_until_idle(target.master)


MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"max_tokens": -1}, 400),
        ({"max_tokens": 10**30}, 400),
        ({"temperature": -0.1}, 400),
        ({"temperature": 1e300}, 400),
        ({"top_p": 1.5}, 400),
        ({"n": 10**9}, 400),
        ({"n": 0}, 400),
        ({"logit_bias": {str(10**20): 1}}, 400),
        ({"top_logprobs": 10**6, "logprobs": True}, 400),
        ({"stop": ["a"] * 10000}, 400),
        ({"model": "unknown"}, 404),
        ({"model": "x" * 100000}, 400),
        ({"messages": [{"role": "user", "content": "word " * 20000}]}, 400),
        ({"messages": [{"role": "user", "content": "x"}] * 50000}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_and_names_out_of_range(target, fields, status):
    answer = ask(target, **fields)
    assert answer.status_code == status, answer.text[:300]
    assert answer.json()["error"]["message"]


def test_bodies_that_are_broken_deep_or_huge(target):
    headers = target.headers() | {"Content-Type": "application/json"}
    deep = '{"model":"tiny","messages":' + "[" * 100000 + "]" * 100000 + "}"
    for body in (b'{"model": "tiny", "messages": [', b"\xff" * 100, deep.encode(), b'{"model": NaN}', b"{}" * 10):
        answer = httpx.post(f"{target.url}/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 400, answer.text[:300]
        assert answer.json()["error"]["message"]


def test_a_body_of_100_mb_is_refused_by_its_length(target):
    before = memory_of(target.master)
    with connect(target) as connection:
        connection.sendall(
            head("/v1/chat/completions", "POST", "Content-Type: application/json", f"Content-Length: {100 << 20}")
            + b"\r\n{"
        )
        assert read_all(connection).startswith(b"HTTP/1.1 413")
    assert memory_of(target.master) - before < 8 << 20


def test_half_sent_requests_hold_nothing_else_up(target):
    """Slow clients wait for their limit, which is longer than this test; all the others are served meanwhile."""
    post = head("/v1/chat/completions", "POST", "Content-Type: application/json", "Content-Length: 1000") + b"\r\n"
    starts = [b"P", b"POST /v1/chat", post[:-2], post, post + b'{"model":', b""]
    with contextlib.ExitStack() as stack:
        for start in starts * 50:
            connection = stack.enter_context(connect(target))
            connection.sendall(start)
        started = time.monotonic()
        assert ask(target, max_tokens=4).status_code == 200
        assert time.monotonic() - started < 5


def test_half_open_and_reset_connections(target):
    body = json.dumps({"model": "tiny", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 400})
    request = head("/v1/chat/completions", "POST", "Content-Type: application/json", f"Content-Length: {len(body)}") + (
        b"\r\n" + body.encode()
    )
    for cut in ("reset", "half", "close"):
        for _ in range(10):
            with connect(target) as connection:
                connection.sendall(request)
                if cut == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif cut == "half":
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(0.1)
                    read_all(connection)
    check_conservation(target.master)


CHUNKED = "Transfer-Encoding: chunked"
HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"


def smuggle(*lines, body=b"0\r\n\r\n"):
    return head("/v1/chat/completions", "POST", "Content-Type: application/json", *lines) + b"\r\n" + body + HIDDEN


SMUGGLED = {
    "length and chunked": smuggle("Content-Length: 5", CHUNKED),
    "chunked and length": smuggle(CHUNKED, "Content-Length: 5"),
    "two lengths": smuggle("Content-Length: 2", "Content-Length: 5", body=b"{}"),
    "list of lengths": smuggle("Content-Length: 2, 5", body=b"{}"),
    "signed length": smuggle("Content-Length: +2", body=b"{}"),
    "hex length": smuggle("Content-Length: 0x2", body=b"{}"),
    "space before the colon": smuggle("Content-Length : 2", body=b"{}"),
    "chunked in HTTP/1.0": smuggle(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "chunked twice": smuggle(CHUNKED, CHUNKED),
    "unknown coding": smuggle("Transfer-Encoding: xchunked", body=b""),
    "identity": smuggle("Transfer-Encoding: identity", body=b""),
    "chunked, identity": smuggle("Transfer-Encoding: chunked, identity"),
    "bad chunk size": smuggle(CHUNKED, body=b"-1\r\n\r\n"),
    "hex chunk size": smuggle(CHUNKED, body=b"0x0\r\n\r\n"),
    "huge chunk size": smuggle(CHUNKED, body=b"fffffffffffffffff\r\n\r\n"),
    "chunk without its end": smuggle(CHUNKED, body=b"2\r\n{}XX0\r\n\r\n"),
    "NUL in a header": smuggle("X: a\0b", "Content-Length: 2", body=b"{}"),
    "CR in a header": smuggle("X: a\rContent-Length: 2", body=b"{}"),
    "no such version": head().replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n" + HIDDEN,
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_what_can_be_read_in_two_ways_is_refused(target, name):
    """A proxy in front may see one request where we see two; the only safe answer is one refusal, and the end."""
    with connect(target) as connection:
        connection.sendall(SMUGGLED[name])
        answers = read_all(connection)
    assert answers[9:12] in (b"400", b"501", b"505"), answers[:400]
    assert len(statuses(answers)) == 1, answers


def test_odd_but_plain_requests_are_answered_once(target):
    for request in (
        head("http://localhost/v1/models", "GET") + b"\r\n",
        head("/v1/models", "BREW") + b"\r\n",
        head("*", "OPTIONS") + b"\r\n",
        head("localhost:80", "CONNECT") + b"\r\n",
        head("/v1/models", "TRACE") + b"\r\n",
        head("/v1/%00/../models", "GET") + b"\r\n",
    ):
        with connect(target) as connection:
            connection.sendall(request.replace(b"Host:", b"Connection: close\r\nHost:", 1))
            answers = read_all(connection)
        assert len(statuses(answers)) == 1, answers
        assert answers[9:10] in b"245", answers


def test_ten_thousand_connections(target, record_property):
    """Up to its limit the server takes them, above it says 503; who is in is served, and all is given back."""
    record_property("connections at once", FLOOD)
    descriptors, memory = descriptors_of(target.master), memory_of(target.master)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(httpx.Client(base_url=target.url, headers=target.headers(), timeout=30))
        assert first.get("/v1/models").status_code == 200
        taken = [stack.enter_context(connect(target)) for _ in range(CONNECTIONS_MAX - 50)]
        wait_for(lambda: descriptors_of(target.master) >= CONNECTIONS_MAX - 50, "they are taken", 20)
        assert ask(target, max_tokens=4).status_code == 200

        more = [stack.enter_context(connect(target)) for _ in range(FLOOD - len(taken))]
        answers = []
        for connection in more[50:]:
            connection.settimeout(5)
            answers.append(read_all(connection))
        assert {tuple(statuses(answer)) for answer in answers} == {(503,)}
        assert error_of(answers[-1])["type"] == "service_unavailable"
        assert memory_of(target.master) - memory < CONNECTIONS_MAX * CONNECTION_BYTES_MAX
        assert first.post("/v1/completions", json={"model": "tiny", "prompt": "Hi"}).status_code == 200
        for connection in taken[::500]:
            connection.sendall(head("/v1/models", "GET", "Connection: close") + b"\r\n")
            assert statuses(read_all(connection)) == [200]
    wait_for(lambda: descriptors_of(target.master) <= descriptors + 5, "file descriptors are back", 20)


def test_readers_that_never_read_cost_little(target):
    body = {"model": "tiny", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 400}
    request = post("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 20})
    ask(target)
    before = memory_of(target.master)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(target, receive_buffer=2048)).sendall(request)
        peak = 0
        for _ in range(20):
            time.sleep(0.1)
            peak = max(peak, memory_of(target.master))
        assert peak - before < 96 << 20, f"{(peak - before) >> 20} MiB"
        check_conservation(target.master)


def test_a_reader_too_far_behind_is_given_up(target):
    """Long before its time is over: the engine works for nobody."""
    before = Count(target.master).ended["cancelled"]
    body = {"model": "tiny", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 3500}
    request = post("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 20}, "x-request-id: behind")
    with connect(target, receive_buffer=2048) as connection:
        connection.sendall(request)
        wait_for(lambda: Count(target.master).ended["cancelled"] > before, "the generation is cancelled", 20)
        wait_for(lambda: not worker_requests(target), "the worker has dropped it", 2)
    (line,) = wait_for(lambda: access_lines(target.master, "behind"), "the access log tells", 5)
    assert "too much output waits for it" in line


def test_every_scrape_adds_up(target):
    """Not only when all is quiet: what began has ended or is in flight at every moment, on both ports."""
    over = threading.Event()
    story = {"messages": MESSAGES, "ignore_eos": True, "max_tokens": 100}
    kinds = [
        {"max_tokens": 2},
        story | {"timeout": 0.02},
        story | {"messages": [{"role": "user", "content": "word " * 20000}]},
        {"top_p": 7},
    ]

    def cut(client):
        body = story | {"model": "tiny", "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(answer.iter_lines())

    def load(seed):
        with httpx.Client(base_url=target.url, headers=target.headers(), timeout=30) as client:
            for turn in range(seed, 1 << 30):
                if over.is_set():
                    return
                if turn % 5 == 4:
                    cut(client)
                else:
                    body = {"model": "tiny", "messages": MESSAGES} | kinds[turn % 5]
                    client.post("/v1/chat/completions", json=body)

    before = check_conservation(target.master)
    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    busy, started = 0, time.monotonic()
    try:
        while time.monotonic() - started < 6 or (busy < 20 and time.monotonic() - started < 60):
            for port in ("metrics", "http"):
                busy += check_conservation(target.master, port).in_flight > 0
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    after = wait_until_idle(target.master)
    assert busy >= 20
    assert all(after.ended[end] > before.ended[end] for end in after.ended), (before, after)


def test_a_worker_killed_under_load(target):
    got = []

    def work():
        with contextlib.suppress(httpx.HTTPError):
            got.append(ask(target, ignore_eos=True, max_tokens=200).status_code)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    target.restart_worker()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a request never ended"
    assert len(got) == 16, got
    assert set(got) <= {200, 502, 503}, got
    check_conservation(target.master)
