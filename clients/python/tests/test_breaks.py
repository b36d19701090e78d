"""Whatever breaks, the caller sees the answer once and whole."""

import json

import pytest
from conftest import KEY, MESSAGES
from fake_master import ANSWER, DONE, EVENTS, PIECES, TEXT, drop, event, refuse, reset, until, whole

WHALE = EVENTS[4]
IN_A_CHARACTER = WHALE[: WHALE.index("鲸".encode()) + 2]
BREAKS = {
    "before the headers": (drop, 0),
    "reset before the headers": (reset, 0),
    "after the headers": (until(0), 0),
    "after the role": (until(1), 1),
    "between events": (until(4), 4),
    "reset between events": (until(4, how="reset"), 4),
    "in an event": (until(4, EVENTS[4][:25]), 4),
    "before an event's empty line": (until(4, EVENTS[4][:-1]), 4),
    "in a character": (until(4, IN_A_CHARACTER), 4),
    "in a character, without chunks": (until(4, IN_A_CHARACTER, chunked=False), 4),
    "properly, but too early": (until(4, how="end"), 4),
    "without chunks": (until(4, chunked=False), 4),
    "before the usage": (until(len(PIECES) + 2), len(PIECES) + 2),
}


def assert_whole(answer):
    assert answer.text == TEXT
    assert [c.finish_reason for c in answer.choices] == ["stop"]
    assert (answer.usage.completion_tokens, answer.usage.cached_tokens) == (6, 1)
    assert (answer.id, answer.created, answer.model) == ("chatcmpl-1", 7, "tiny")


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_stream_goes_on_at_the_next_master(ask, masters, how):
    behave, had = BREAKS[how]
    first, second = masters(behave, whole)
    seen = []
    assert_whole(ask([first, second], seen=seen))
    (begun,), (went_on,) = first.requests, second.requests
    assert went_on.body == begun.body, "byte for byte"
    assert json.loads(begun.body)["messages"] == MESSAGES
    assert begun.headers["x-stainless-retry-count"] == "0"
    assert "last-event-id" not in begun.headers
    assert went_on.headers["x-stainless-retry-count"] == "1"
    assert went_on.headers.get("last-event-id") == (f"e{had - 1}" if had else None)
    for request in (begun, went_on):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["idempotency-key"] == seen[0].idempotency_key
        assert request.headers["x-fathom-resume"] == "15"
    assert seen[0].resumed == (1 if had else 0)
    assert seen[0].request_id == "r1"


def test_after_the_last_chunk_nobody_goes_back_for_done(ask, masters):
    (master,) = masters(until(len(EVENTS)))
    assert_whole(ask([master]))
    assert len(master.requests) == 1


def test_without_usage_the_last_chunk_is_that_of_the_last_choice(ask, masters):
    (master,) = masters([until(3), until(len(EVENTS) - 4)])
    answer = ask([master], call={"stream_options": {"include_usage": False}})
    assert (answer.text, answer.usage) == (TEXT, None)
    assert len(master.requests) == 2


def test_a_stream_that_breaks_after_every_event(ask, masters, clock):
    breaks = [until(1, EVENTS[i + 1][:-1]) for i in range(len(EVENTS) - 1)]
    first, second = masters([*breaks[::2], whole], [*breaks[1::2], whole])
    assert_whole(ask([first, second]))
    assert len(first.requests) + len(second.requests) == len(EVENTS)
    assert all(pause == pytest.approx(0.1) for pause in clock.slept), "each event starts the pauses anew"


def test_half_a_line_and_cr_lf_and_comments(ask, masters):
    def behave(wire, request):
        wire.head()
        stream = b": ping\n\n" + b"".join(EVENTS) + DONE
        stream = stream.replace(b"\n", b"\r\n")
        for i in range(0, len(stream), 7):
            wire.chunk(stream[i : i + 7])
        wire.end()

    assert_whole(ask(masters(behave)))


@pytest.mark.parametrize("behave", [drop, reset, until(0, chunked=False)], ids=["drop", "reset", "empty"])
def test_a_whole_answer_is_asked_for_again_under_its_name(ask, masters, behave):
    def half(wire, request):
        wire.head(kind="application/json")
        wire.chunk(json.dumps(ANSWER).encode()[:50])

    first, second, third = masters(behave if behave is not until else drop, half, whole)
    if behave not in (drop, reset):
        first.script = [half]
    assert_whole(ask([first, second, third], stream=False))
    requests = [master.requests[0] for master in (first, second, third)]
    assert len({r.body for r in requests}) == 1
    assert len({r.headers["idempotency-key"] for r in requests}) == 1
    assert [r.headers["x-stainless-retry-count"] for r in requests] == ["0", "1", "2"]
    assert all("x-fathom-resume" not in r.headers for r in requests)


def test_a_name_of_the_callers_may_run_already(ask, masters):
    first, second = masters(drop, whole)
    assert_whole(ask([first, second], idempotency_key="order-17"))
    assert first.requests[0].headers["idempotency-key"] == "order-17"
    assert "x-stainless-retry-count" not in first.requests[0].headers
    assert second.requests[0].headers["x-stainless-retry-count"] == "1"


def test_the_master_that_answered_is_asked_first_the_next_time(masters, clock):
    from fathom_client import Client

    first, second = masters([drop, whole], whole)
    with Client([first.url, second.url], api_key=KEY, clock=clock) as client:
        for _ in range(2):
            assert client.chat(MESSAGES, model="tiny").text == TEXT
    assert (len(first.requests), len(second.requests)) == (1, 2)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_passes_is_tried_elsewhere(ask, masters, status, stream):
    first, second = masters(refuse(status, Retry_After="7"), whole)
    assert_whole(ask([first, second], stream=stream))
    assert ask.clock.slept == pytest.approx([0.1]), "the other master has not said that it is full"


def test_a_full_master_is_left_alone_for_as_long_as_it_says(ask, masters):
    (master,) = masters([refuse(429, Retry_After="7"), whole])
    assert_whole(ask([master]))
    assert ask.clock.slept == pytest.approx([7])


def test_a_date_of_a_proxy(ask, masters):
    # FakeClock begins at 2023-11-14 22:30:00 UTC.
    (master,) = masters([refuse(503, Retry_After="Tue, 14 Nov 2023 22:30:09 GMT"), whole])
    assert_whole(ask([master]))
    assert ask.clock.slept == pytest.approx([9])


def test_an_error_in_mid_stream_that_passes(ask, masters):
    error = event({"error": {"message": "the server is shutting down", "type": "service_unavailable", "code": None}})
    first, second = masters(until(3, error, how="end"), whole)
    assert_whole(ask([first, second]))
    assert second.requests[0].headers["last-event-id"] == "e2"
