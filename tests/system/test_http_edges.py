"""The corners of HTTP: each request is answered once or refused once, in the form of its place, and within its time."""

import contextlib
import time

import httpx
import pytest
from conservation import Count, wait_until_idle, worker_requests
from harness import KEY, Cluster, access_lines, wait_for
from raw_http import connect, error_of, head, memory_of, post, read_all, statuses

LIMIT_S = 1
CONFIG = f"master:\n  limits: {{header_seconds: {LIMIT_S}, body_seconds: {LIMIT_S}, write_seconds: {LIMIT_S}}}\n"
CHAT = "/v1/chat/completions"
INFER = "/v2/models/tiny/infer"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edges")
    (folder / "fathom.yaml").write_text(CONFIG)
    with Cluster(folder, master_extra=["--config", folder / "fathom.yaml"]) as running:
        yield running


@pytest.fixture(autouse=True)
def still_serves(target):
    yield
    target.master.check_alive()
    answer = httpx.get(f"{target.url}/v1/models", headers=target.headers())
    assert answer.status_code == 200, answer.text
    wait_until_idle(target.master)


CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"
BODY = b'{"model":"tiny","max_tokens":2,"messages":[{"role":"user","content":"Hi"}]}'
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
NEXT = head("/v1/models", "GET", "Connection: close") + b"\r\n"


def get(*lines, path="/v1/models", version=b"HTTP/1.1"):
    return head(path, "GET", *lines).replace(b"HTTP/1.1", version, 1) + b"\r\n"


def chat(*lines, body):
    return head(CHAT, "POST", JSON, *lines) + b"\r\n" + body


def http_10(*lines):
    """Without a Host."""
    return "\r\n".join(["GET /v1/models HTTP/1.0", f"Authorization: Bearer {KEY}", *lines]).encode() + b"\r\n\r\n"


# What is sent before NEXT, and the statuses that may come back: `[200, 200]` is an answer to each, `[400]` one refusal
# and the end of the connection.
EDGES = {
    "folded header": (get("X-Folded: a", "  b"), [[200, 200], [400]]),
    "folded Host": (b"GET /v1/models HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n", [[401, 200], [400]]),
    "fold before any header": (b"GET /v1/models HTTP/1.1\r\n X: a\r\nHost: localhost\r\n\r\n", [[400]]),
    "bare LF in the request line": (b"GET /v1/models HTTP/1.1\nHost: localhost\r\n\r\n", [[400]]),
    "bare LF in a header": (get("X: a\nY: b"), [[400]]),
    "bare LF at the end": (get()[:-2] + b"\n", [[400]]),
    "only LF": (get().replace(b"\r\n", b"\n"), [[400]]),
    "bare CR in a header": (get("X: a\rY: b"), [[400]]),
    "NUL in a header's value": (get("X: a\0b"), [[400]]),
    "NUL in a header's name": (get("X\0: a"), [[400]]),
    "NUL in the target": (get(path="/v1/mod\0els"), [[400]]),
    "space in the target": (get(path="/v1/models /x"), [[400]]),
    "space before the colon": (get("X : a"), [[400]]),
    "tab before the colon": (get("X\t: a"), [[400]]),
    "header without a colon": (get("X"), [[400]]),
    "header without a name": (get(": a"), [[400]]),
    "negative length": (chat("Content-Length: -5", body=b""), [[400]]),
    "empty length": (chat("Content-Length:", body=b""), [[400]]),
    "length over 64 bits": (chat("Content-Length: 18446744073709551617", body=b"{"), [[400]]),
    "length of 64 bits": (chat("Content-Length: 18446744073709551615", body=b"{"), [[413]]),
    "same length twice": (
        chat(f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY)}", body=BODY),
        [[200, 200], [400]],
    ),
    "two lengths": (chat("Content-Length: 0", f"Content-Length: {len(BODY)}", body=BODY), [[400]]),
    "length in a trailer": (chat(CHUNKED, body=CHUNK + b"0\r\nContent-Length: 5\r\n\r\n"), [[400]]),
    "coding in a trailer": (chat(CHUNKED, body=CHUNK + b"0\r\nTransfer-Encoding: gzip\r\n\r\n"), [[400]]),
    "trailer": (chat(CHUNKED, body=CHUNK + b"0\r\nX-Sum: 1\r\n\r\n"), [[200, 200]]),
    "key in a trailer": (
        chat(CHUNKED, body=CHUNK + b"0\r\nAuthorization: Bearer wrong\r\n\r\n"),
        [[200, 200], [400]],
    ),
    "chunk extension": (
        chat(CHUNKED, body=CHUNK.replace(b"\r\n", b';a=b;c="d e"\r\n', 1) + b"0;z\r\n\r\n"),
        [[200, 200]],
    ),
    "broken chunk extension": (chat(CHUNKED, body=CHUNK.replace(b"\r\n", b";=\r\n", 1) + b"0\r\n\r\n"), [[400]]),
    "LF in a chunk extension": (chat(CHUNKED, body=CHUNK.replace(b"\r\n", b";a\n\r\n", 1) + b"0\r\n\r\n"), [[400]]),
    "chunk size over 64 bits": (chat(CHUNKED, body=b"10000000000000001\r\n{"), [[400]]),
    "chunk size of 64 bits": (chat(CHUNKED, body=b"ffffffffffffffff\r\n{"), [[413]]),
    "chunks over the body's limit": (chat(CHUNKED, body=b"1\r\n{\r\n1ffffff0\r\n"), [[413]]),
    "chunk size with white space": (chat(CHUNKED, body=b" 1\r\n{\r\n0\r\n\r\n"), [[400]]),
    "empty chunk size": (chat(CHUNKED, body=b"\r\n{"), [[400]]),
    "bare LF after a chunk size": (chat(CHUNKED, body=CHUNK.replace(b"\r\n", b"\n", 1) + b"0\r\n\r\n"), [[400]]),
    "too many headers": (get(*["X: y"] * 20000), [[431]]),
    "header too long": (get("X: " + "y" * 100000), [[431]]),
    "target too long": (get(path="/" + "y" * 100000), [[431]]),
    "absolute form": (get(path="http://localhost/v1/models"), [[200, 200]]),
    "absolute form without a path": (get(path="http://localhost"), [[200, 200], [404, 200]]),
    "absolute form of another scheme": (get(path="ftp://localhost/v1/models"), [[200, 200], [400], [404, 200]]),
    "target without a slash": (get(path="v1/models"), [[400], [404, 200]]),
    "no Host": (b"GET /v1/models HTTP/1.1\r\n\r\n", [[400], [400, 200]]),
    "two Hosts": (get("Host: localhost"), [[400], [400, 200]]),
    "HTTP/1.0": (http_10(), [[200]]),
    "HTTP/1.0, kept open": (http_10("Connection: keep-alive"), [[200, 200]]),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", [[400]]),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), [[400], [505]]),
    "upgrade to HTTP/2": (
        get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        [[200, 200]],
    ),
    "lower-case method": (get().replace(b"GET", b"get", 1), [[400], [405, 200]]),
    "method without end": (b"G" * 100000, [[400], [431]]),
    "pipelined": (get() + chat(f"Content-Length: {len(BODY)}", body=BODY) + get(), [[200, 200, 200, 200]]),
    "asks to continue": (
        chat("Expect: 100-continue", f"Content-Length: {len(BODY)}", body=BODY),
        [[100, 200, 200], [200, 200]],
    ),
    "asks to continue, refused": (
        chat("Expect: 100-continue", "Content-Length: 100000000", body=b""),
        [[413]],
    ),
    "asks to continue in HTTP/1.0": (
        chat("Expect: 100-continue", f"Content-Length: {len(BODY)}", body=BODY).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        [[200]],
    ),
    "body of a GET": (get("Content-Length: 2") + b"{}", [[200, 200]]),
    "HEAD": (head("/v1/models", "HEAD") + b"\r\n", [[200, 200]]),
}


@pytest.mark.parametrize("name", EDGES)
def test_every_request_has_one_answer(target, name):
    request, allowed = EDGES[name]
    with connect(target) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request + NEXT)
        answers = read_all(connection)
    assert statuses(answers) in allowed, answers[:600]
    for answer in answers.split(b"HTTP/1.")[1:]:
        if answer[4:5] in b"45":
            assert error_of(answer)["message"]


@pytest.mark.parametrize("path", [CHAT, INFER, "/v2", "/v2x", "/nowhere"])
def test_refusals_have_the_form_of_their_place(target, path):
    """Whatever is wrong, and however much of the head could be read."""
    length = f"Content-Length: {100 << 20}"
    refused = {
        431: head(path, "POST", "X: " + "y" * 100000) + b"\r\n",
        408: head(path, "POST", "X: y"),
        400: head(path, "POST", "X : y") + b"\r\n",
        501: head(path, "POST", JSON, "Transfer-Encoding: gzip") + b"\r\n",
        403: head(path, "POST", "Connection: close").replace(b"Host: localhost", b"Host: evil.example") + b"\r\n",
    }
    if path in (CHAT, INFER):
        refused[413] = head(path, "POST", JSON, length) + b"\r\n"
    requests = [
        *refused.items(),
        (431, head(path + "?" + "y" * 100000, "POST")),
        (408, b"POST " + path.encode() + b" HT"),
    ]
    for status, request in requests:
        with connect(target) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
            answer = read_all(connection)
        assert statuses(answer) == [status], answer[:300]
        error = error_of(answer)
        if path.startswith("/v2") and path != "/v2x":
            assert isinstance(error, str) and error, answer
        else:
            assert error["message"] and error["type"], answer


def test_a_slow_header_is_cut_off(target):
    with connect(target) as connection:
        for byte in b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                if answer := connection.recv(100):
                    assert answer.startswith(b"HTTP/1.1 408")
                    return
        pytest.fail("a header that trickles in was never cut off")


@pytest.mark.parametrize("path", [CHAT, INFER])
@pytest.mark.parametrize("form", ["stops", "trickles", "trickles in chunks", "never ends its chunks"])
def test_a_slow_body_is_cut_off(target, path, form):
    chunked = "chunks" in form
    framing = CHUNKED if chunked else "Content-Length: 1000"
    piece = b"1\r\n{\r\n" if chunked else b"{"
    started = time.monotonic()
    with connect(target) as connection:
        connection.sendall(head(path, "POST", JSON, framing) + b"\r\n" + piece)
        connection.settimeout(0.05)
        answer = b""
        while time.monotonic() - started < 10 * LIMIT_S:
            with contextlib.suppress(TimeoutError):
                if not (more := connection.recv(65536)):
                    break
                answer += more
            if not answer and form.startswith("trickles"):
                connection.sendall(piece)
    assert LIMIT_S <= time.monotonic() - started < 3 * LIMIT_S
    assert statuses(answer) == [408], answer
    assert b"\r\nConnection: close\r\n" in answer
    error = error_of(answer)
    assert (error if path == INFER else error["message"]) == "the request did not arrive in time"


@pytest.mark.parametrize(
    "start", [CHUNK + b"0\r\n", CHUNK + b"0;", CHUNK + b"1;"], ids=["trailer", "last chunk", "chunk"]
)
@pytest.mark.parametrize("port", ["http", "metrics"])
def test_what_comes_between_and_after_chunks_is_bounded(target, start, port):
    """A trailer or a chunk's extension is no part of the body, so the body's limit does not hold it."""
    before = memory_of(target.master)
    path = CHAT if port == "http" else "/health"
    with connect(target, port=port) as connection:
        connection.sendall(head(path, "POST", JSON, CHUNKED) + b"\r\n" + start)
        line = b"X: " + b"y" * 1000 + b"\r\n" if start.endswith(b"\n") else b"a=" + b"y" * 1000 + b";"
        with contextlib.suppress(OSError):
            for _ in range(1 << 10):
                connection.sendall(line * 100)
        answer = read_all(connection)
    assert statuses(answer) in ([], [431]), answer
    assert memory_of(target.master) - before < 8 << 20


def test_a_stream_that_is_never_read_is_cut_off(target):
    """What the kernel holds for it is bounded, so it stands still soon and its time runs."""
    before = Count(target.master).ended["cancelled"]
    body = {"model": "tiny", "messages": MESSAGES, "stream": True, "logprobs": True, "top_logprobs": 20}
    body |= {"ignore_eos": True, "max_tokens": 3500}
    started = time.monotonic()
    with connect(target, receive_buffer=2048) as connection:
        connection.sendall(post(CHAT, body, "x-request-id: never-read"))
        wait_for(lambda: Count(target.master).ended["cancelled"] > before, "the generation is cancelled", 10 * LIMIT_S)
        assert time.monotonic() - started < 5 * LIMIT_S
        wait_for(lambda: not worker_requests(target), "the worker has dropped it", 2)
        (line,) = wait_for(lambda: access_lines(target.master, "never-read"), "the access log tells", 5)
        assert '"error.message":"the client read too slowly"' in line
        assert '"http.response.status_code":499' in line


@pytest.mark.parametrize("start", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n"])
def test_a_grpc_connection_that_says_nothing_is_closed(target, start):
    with connect(target, port="grpc") as connection:
        connection.sendall(start)
        started = time.monotonic()
        read_all(connection)
        assert time.monotonic() - started < LIMIT_S + 5
