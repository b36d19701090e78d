"""What comes, as our types: the same whether it came whole or in pieces."""

import pytest
from conftest import KEY, MESSAGES
from fake_master import HEAD, event

from fathom_client import AsyncClient, Choice, Client, Delta, TokenLogprob, ToolCall, ToolCallDelta, TopLogprob, Usage
from fathom_client._openai import num_choices

LOGPROBS = {
    "content": [{"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -0.5}]}]
}
READ = (TokenLogprob("a", -1.5, (TopLogprob("b", -0.5),), b"a"),)


def serve_json(body):
    import json

    def behave(wire, request):
        wire.head(kind="application/json", chunked=False)
        wire.send(json.dumps(body).encode())

    return behave


def serve_events(*chunks):
    def behave(wire, request):
        wire.head()
        for i, chunk in enumerate(chunks):
            wire.chunk(event(HEAD | chunk, f"e{i}"))
        wire.chunk(b"data: [DONE]\n\n")
        wire.end()

    return behave


def choice(index, delta, finish=None, logprobs=None):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}


def call(index, arguments, **more):
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return {"index": index, "function": function} | more


STREAMED = serve_events(
    choice(0, {"role": "assistant", "content": ""}),
    choice(1, {"role": "assistant", "content": ""}),
    choice(0, {"reasoning_content": "hm"}),
    choice(1, {"content": "x"}, None, LOGPROBS),
    choice(0, {"tool_calls": [call(0, "", id="c0", type="function", name="f"), call(1, "", id="c1", name="g")]}),
    choice(0, {"tool_calls": [call(0, '{"a'), call(1, "{}")]}),
    choice(0, {"tool_calls": [call(0, '":1}')]}),
    choice(1, {"content": "y"}, "length"),
    choice(0, {}, "tool_calls"),
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
)
CHOICES = (
    Choice(0, "", "hm", (ToolCall("c0", "f", '{"a":1}'), ToolCall("c1", "g", "{}")), (), "tool_calls"),
    Choice(1, "xy", "", (), READ, "length"),
)


def test_deltas(masters):
    with Client(masters(STREAMED)[0].url, api_key=KEY) as client:
        stream = client.chat(MESSAGES, model="tiny", n=2, stream=True)
        assert list(stream) == [
            Delta(0, reasoning="hm"),
            Delta(1, "x", logprobs=READ),
            Delta(0, tool_calls=(ToolCallDelta(0, "c0", "f"), ToolCallDelta(1, "c1", "g"))),
            Delta(0, tool_calls=(ToolCallDelta(0, arguments='{"a'), ToolCallDelta(1, arguments="{}"))),
            Delta(0, tool_calls=(ToolCallDelta(0, arguments='":1}'),)),
            Delta(1, "y", finish_reason="length"),
            Delta(0, finish_reason="tool_calls"),
            Delta(usage=Usage(1, 2, 3)),
        ]


def test_gathered_and_whole_are_equal(ask, masters):
    calls = [
        {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    body = {
        "id": "chatcmpl-1",
        "created": 7,
        "model": "tiny",
        "choices": [
            {"index": 1, "message": {"content": "xy"}, "logprobs": LOGPROBS, "finish_reason": "length"},
            {
                "index": 0,
                "message": {"content": None, "reasoning_content": "hm", "tool_calls": calls},
                "finish_reason": "tool_calls",
            },
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    streamed, whole = masters(STREAMED, serve_json(body))
    gathered = ask([streamed], call={"n": 2})
    assert gathered.choices == CHOICES
    answer = ask([whole], stream=False, call={"n": 2})
    assert answer == gathered
    assert answer.raw["choices"][1]["message"]["tool_calls"] == calls


def test_completions(masters):
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -1],
        "top_logprobs": [None, {"c": -2}],
        "text_offset": [0, 1],
    }
    body = {"id": "1", "created": 1, "model": "m", "choices": [{"index": 0, "text": "ab", "logprobs": logprobs}]}
    (master,) = masters([serve_json(body), serve_events({"choices": [{"index": 0, "text": "ab"}]})])
    with Client(master.url, api_key=KEY) as client:
        answer = client.complete("p", model="m", logprobs=1)
        assert answer.text == "ab"
        assert answer.choices[0].logprobs == (TokenLogprob("a", None), TokenLogprob("b", -1, (TopLogprob("c", -2),)))
        assert list(client.complete("p", model="m", stream=True)) == [Delta(text="ab")]
    assert [r.path for r in master.requests] == ["/v1/completions"] * 2


def test_the_other_calls(masters):
    import anyio

    script = [
        serve_json({"data": [{"id": "tiny", "created": 5, "max_model_len": 9}]}),
        serve_json({"tokens": [1, 2], "max_model_len": 9, "count": 2}),
        serve_json({"prompt": "text"}),
    ]
    (master,) = masters(script * 2)
    with Client(f"{master.url}/v1/", api_key="") as client:
        models = client.models()
        tokens = client.tokenize(model="tiny", prompt="x", add_special_tokens=False)
        text = client.detokenize([1, 2], model="tiny")

    async def ask():
        async with AsyncClient(master.url, api_key="") as client:
            return (
                await client.models(),
                await client.tokenize(model="tiny", messages=MESSAGES),
                await client.detokenize([1, 2], model="tiny"),
            )

    assert (models[0].id, models[0].max_model_len, tokens.ids, text) == ("tiny", 9, (1, 2), "text")
    assert anyio.run(ask) == (models, tokens, text)
    assert [(r.method, r.path) for r in master.requests] == [
        ("GET", "/v1/models"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    ] * 2
    for request in master.requests:
        assert not {"authorization", "idempotency-key", "x-stainless-retry-count"} & request.headers.keys()


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"n": None}, 1),
        ({"n": 3}, 3),
        ({"prompt": "text", "n": 2}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [[1], [2], [3]]}, 3),
        ({"prompt": 7}, 0),
        ({"n": "x"}, 0),
    ],
)
def test_choices_are_counted(body, count):
    assert num_choices(body) == count
