"""What is the caller's fault, and what nobody can mend, is raised at once, as what it is."""

import logging

import pytest
from conftest import KEY, MESSAGES
from fake_master import EVENTS, TEXT, chunk_of, drop, error_body, event, refuse, until, whole

import fathom_client
from fathom_client import (
    APIError,
    AuthenticationError,
    BadRequestError,
    CannotResumeError,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    UnprocessableEntityError,
)
from fathom_client import _options as options

Policy = fathom_client.Policy


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (400, {"param": "top_p", "type": "invalid_request_error"}, BadRequestError),
        (400, {"code": "request_crashes_workers"}, BadRequestError),
        (401, {"code": "invalid_api_key"}, AuthenticationError),
        (403, {}, PermissionDeniedError),
        (404, {"code": "model_not_found"}, NotFoundError),
        (404, {"code": "cannot_resume"}, CannotResumeError),
        (413, {}, APIError),
        (422, {"code": "idempotency_key_reused"}, UnprocessableEntityError),
        (429, {"code": "quota"}, RateLimitError),
        (500, {}, ServerError),
        (503, {"code": "worker_lost", "type": "service_unavailable"}, ServerError),
        (504, {"type": "timeout_error"}, ServerError),
    ],
)
def test_a_refusal_is_raised_at_once(ask, masters, stream, status, fields, kind):
    first, second = masters(refuse(status, error_body(**fields)), whole)
    with pytest.raises(kind) as raised:
        ask([first, second], stream=stream)
    error = raised.value
    assert (error.status, error.message, error.request_id) == (status, "no", "r1")
    assert (error.code, error.param, error.type) == tuple(fields.get(n) for n in ("code", "param", "type"))
    assert second.requests == [] and ask.clock.slept == []
    assert KEY not in repr(error) + str(error)


def test_a_proxys_page_is_quoted(ask, masters):
    def page(wire, request):
        wire.head(status=418, kind="text/html", chunked=False)
        wire.send(b"<h1>I am\n a teapot</h1>" + b"x" * 2_000)

    with pytest.raises(APIError, match="I am a teapot") as raised:
        ask(masters(page))
    assert len(raised.value.message) <= 500


@pytest.mark.parametrize(
    ("fields", "kind", "status"),
    [
        ({"type": "service_unavailable", "code": "worker_lost"}, ServerError, 503),
        ({"type": "timeout_error"}, ServerError, 504),
        ({"type": "invalid_request_error"}, BadRequestError, 400),
        ({"type": "server_error"}, ServerError, 500),
    ],
)
def test_an_error_in_mid_stream(ask, masters, fields, kind, status):
    first, second = masters(until(3, event(error_body(**fields)), how="end"), whole)
    with pytest.raises(kind) as raised:
        ask([first, second])
    assert raised.value.status == status
    assert second.requests == []


def test_a_stream_that_cannot_be_resumed_elsewhere(ask, masters):
    first, second = masters(until(3), refuse(404, error_body(code="cannot_resume")))
    with pytest.raises(CannotResumeError):
        ask([first, second])


def test_a_stream_without_ids_is_not_begun_again(ask, masters):
    """Of another server: going on would repeat what the caller has."""

    def behave(wire, request):
        wire.head()
        wire.chunk(event(chunk_of({"content": "He"})))

    first, second = masters(behave, whole)
    with pytest.raises(ConnectionFailed, match="no place"):
        ask([first, second])
    assert second.requests == []


@pytest.mark.parametrize(
    "data",
    [b"data: nonsense\n\n", b"data: [1]\n\n", b'data: {"choices": [{}]}\n\n', b'data: {"x": 1}\n\n', b"data: \xff\n\n"],
)
def test_a_wrong_body_of_a_stream(ask, masters, data):
    first, second = masters(until(2, b"id: e2\n" + data), whole)
    with pytest.raises(ProtocolError):
        ask([first, second])


def test_an_answer_of_another_kind(ask, masters):
    def page(wire, request):
        wire.head(kind="text/html", chunked=False)
        wire.send(b"<h1>Welcome</h1>")

    for stream in (True, False):
        with pytest.raises(ProtocolError, match="text/html"):
            ask(masters(page)[-1:], stream=stream)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"choices": 1}'])
def test_a_wrong_body_of_a_whole_answer(ask, masters, body):
    def behave(wire, request):
        wire.head(kind="application/json", chunked=False)
        wire.send(body)

    with pytest.raises(ProtocolError):
        ask(masters(behave), stream=False)


def test_nothing_grows_without_bound(ask, masters):
    def endless_line(wire, request):
        wire.head()
        while True:
            wire.chunk(b"data: " + b"x" * (1 << 20))

    def endless_answer(wire, request):
        wire.head(kind="application/json")
        while True:
            wire.chunk(b"x" * (1 << 16))

    with pytest.raises(ProtocolError, match="more than"):
        ask(masters(endless_line)[-1:], policy=Policy(hold=None))
    with pytest.raises(ProtocolError, match="more than"):
        ask(masters(endless_answer)[-1:], stream=False, policy=Policy(answer_bytes=1 << 20))


@pytest.mark.parametrize("stream", [True, False])
def test_pauses_grow_until_no_master_has_answered_for_too_long(ask, masters, stream):
    first, second = masters(drop, drop)
    with pytest.raises(ConnectionFailed, match="no master has answered"):
        ask([first, second], stream=stream, policy=Policy(patience=30))
    assert ask.clock.slept[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5])
    assert ask.clock.slept[7:] == pytest.approx([5] * (len(ask.clock.slept) - 7))
    assert 30 < sum(ask.clock.slept) <= 35
    assert abs(len(first.requests) - len(second.requests)) <= 1


def test_pauses_are_drawn(masters, clock):
    (master,) = masters([drop] * 40 + [whole])
    with Client([master.url], api_key=KEY, clock=clock, policy=Policy(patience=1e6)) as client:
        assert client.chat(MESSAGES, model="tiny").text == TEXT
    assert len(set(clock.slept)) == 40
    assert all(0 <= pause <= 5 for pause in clock.slept)
    assert 1 < sum(clock.slept[10:]) / 30 < 4, "between nothing and the longest"


@pytest.mark.parametrize("stream", [True, False])
def test_nobody_there(ask, stream):
    with pytest.raises(ConnectionFailed) as raised:
        ask(["http://127.0.0.1:9"], stream=stream)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("stream", [True, False])
def test_the_deadline_is_one_for_all_connections(ask, masters, stream):
    first, second = masters(drop, drop)
    with pytest.raises(DeadlineExceeded) as raised:
        ask([first, second], stream=stream, deadline=4)
    assert sum(ask.clock.slept) <= 4
    assert raised.value.__cause__ is not None
    assert len(first.requests) + len(second.requests) == 6


def test_who_is_full_for_longer_than_the_deadline_is_not_waited_for(ask, masters):
    first, second = masters(refuse(429, Retry_After="30"), refuse(429, Retry_After="40"))
    with pytest.raises(RateLimitError) as raised:
        ask([first, second], deadline=20)
    assert raised.value.retry_after == 40
    assert sum(ask.clock.slept) < 1


def test_the_deadline_passes_in_mid_stream(ask, masters):
    clock = ask.clock

    def behave(wire, request):
        wire.head()
        for i, one in enumerate(EVENTS):
            if i == 3:
                clock.now += 100
            wire.chunk(one)
        wire.wait_closed()

    master = masters(behave)[0]
    with pytest.raises(DeadlineExceeded):
        ask([master], deadline=50, policy=Policy(hold=None))
    assert len(master.requests) == 1


def test_a_silent_stream_is_broken(ask, masters):
    def silent(wire, request):
        wire.head()
        for one in EVENTS[:3]:
            wire.chunk(one)
        wire.wait_closed()

    first, second = masters(silent, whole)
    assert ask([first, second], policy=Policy(silence=0.2)).text == TEXT
    assert second.requests[0].headers["last-event-id"] == "e2"


def test_the_key_is_nowhere(masters, caplog):
    caplog.set_level(logging.DEBUG)
    first, second = masters(until(3), whole)
    with Client([first.url, second.url], api_key=KEY) as client:
        assert client.chat(MESSAGES, model="tiny", stream=True).collect().text == TEXT
        assert KEY not in repr(client) + repr(vars(client))
    assert "going on" in caplog.text
    assert KEY not in caplog.text


def test_addresses_and_keys(monkeypatch):
    monkeypatch.setenv("FATHOM_URL", "a:1, https://b/v1")
    monkeypatch.setenv("FATHOM_API_KEY", "from-env")
    assert options.base_urls(None) == ("http://a:1", "https://b")
    assert options.base_urls(None, options.GRPC) == ("http://127.0.0.1:8001",)
    assert options.base_urls(["http://[::1]:8000/x/v1/", "h"]) == ("http://[::1]:8000/x", "http://h")
    assert options.key_or_environment(None).bearer() == "Bearer from-env"
    assert options.key_or_environment("given").bearer() == "Bearer given"
    assert options.key_or_environment("").bearer() is None
    monkeypatch.delenv("FATHOM_URL")
    assert options.base_urls(None) == ("http://127.0.0.1:8000",)
    for wrong in ("ftp://a", "http://", "http://u:p@a", "http://a?q", "http://a:port", []):
        with pytest.raises(ValueError):
            options.base_urls(wrong)
    with pytest.raises(ValueError):
        Client("http://a", api_key="two\nlines")
    for wrong in ({"hold": 0.5}, {"hold": 601}, {"deadline": 0}, {"backoff": float("nan")}):
        with pytest.raises(ValueError):
            Policy(**wrong)


def test_arguments_that_cannot_be(masters):
    with Client(masters(whole)[0].url, api_key=KEY) as client:
        for key in ("", "with space", "x" * 256, "ü"):
            with pytest.raises(ValueError):
                client.chat(MESSAGES, model="tiny", idempotency_key=key)
        with pytest.raises(ValueError):
            client.chat(MESSAGES, model="tiny", temperature=float("nan"))
        with pytest.raises(ValueError):
            client.tokenize(model="tiny")
