"""Tools, reasoning, schemas, echo and tokens: what the OpenAI surface adds around the text."""

import json

import grpc
import httpx
import openai
import pytest
from harness import KEY, examples

AUTH = (("authorization", f"Bearer {KEY}"),)
TOOLS = [e for e in examples("tool") if len(e["tools"]) > 1]
THINK = examples("think")


def call_of(example):
    """(name, arguments) the model is known to answer with."""
    text = example["expected"].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    call = json.loads(text)
    return call["name"], call["arguments"]


def ask(client, example, **options):
    options = {"model": "tiny", "temperature": 0, "tools": example.get("tools", openai.omit)} | options
    return client.chat.completions.create(messages=example["messages"], **options)


def calls_in(message):
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]


@pytest.mark.parametrize("example", TOOLS[:5], ids=lambda e: e["id"])
def test_a_call_is_split_off(client, example):
    choice = ask(client, example).choices[0]
    assert calls_in(choice.message) == [call_of(example)]
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].type == "function"
    assert choice.message.tool_calls[0].id.startswith("call_")


def test_streamed_calls_grow_by_their_arguments(client):
    example = next(e for e in TOOLS if len(call_of(e)[1]) > 1)
    whole = ask(client, example).choices[0].message.tool_calls[0]
    pieces, finish = [], []
    for chunk in ask(client, example, stream=True):
        delta = chunk.choices[0].delta
        assert not delta.content
        pieces += delta.tool_calls or []
        finish += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
    assert finish == ["tool_calls"]
    assert pieces[0].function.name == whole.function.name
    assert pieces[0].id.startswith("call_")
    assert all(p.index == 0 for p in pieces)
    assert all(p.id is None and p.function.name is None for p in pieces[1:])
    assert len(pieces) > 3, "arguments come as they are written"
    assert "".join(p.function.arguments or "" for p in pieces) == whole.function.arguments


def test_tool_choice_none_hides_the_tools(client):
    choice = ask(client, TOOLS[0], tool_choice="none").choices[0]
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


def function(name, /, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize("seed", range(8))
def test_required_calls_follow_their_schema(client, seed):
    """Asked for something else, at temperature 1: only the grammar holds the model to its tools."""
    tools = [
        function("paint", colour={"enum": ["red", "blue"]}, coats={"type": "integer", "minimum": 1, "maximum": 9}),
        function("name", name={"type": "string", "maxLength": 12}),
    ]
    question = {"messages": [{"role": "user", "content": "What is Fathom?"}], "tools": tools}
    options = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1, "seed": seed}
    choice = ask(client, question, max_tokens=200, **options).choices[0]
    assert choice.finish_reason == "tool_calls"
    [(name, arguments)] = calls_in(choice.message)
    if name == "paint":
        assert arguments["colour"] in ("red", "blue")
        assert 1 <= arguments["coats"] <= 9
    else:
        assert name == "name"
        assert len(arguments["name"]) <= 12


def test_a_named_tool_is_called_once(client):
    example = TOOLS[0]
    other = next(t["function"]["name"] for t in example["tools"] if t["function"]["name"] != call_of(example)[0])
    choice = ask(client, example, tool_choice={"type": "function", "function": {"name": other}}).choices[0]
    assert [name for name, _ in calls_in(choice.message)] == [other]


def test_parallel_calls_can_be_had_and_forbidden(client):
    body = {"tool_choice": "required", "max_tokens": 200, "extra_body": {"min_tokens": 80}}
    many = ask(client, TOOLS[0], **body).choices[0].message
    assert len(many.tool_calls) > 1
    assert len({c.id for c in many.tool_calls}) == len(many.tool_calls)
    one = ask(client, TOOLS[0], parallel_tool_calls=False).choices[0].message
    assert len(one.tool_calls) == 1


def test_a_conversation_goes_on_after_a_call(client):
    example = TOOLS[0]
    message = ask(client, example).choices[0].message
    history = [
        *example["messages"],
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"ok": true}'},
    ]
    again = client.chat.completions.create(model="tiny", messages=history, tools=example["tools"], max_tokens=20)
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_arguments_reach_the_template_as_an_object(cluster):
    def count(arguments):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}],
        }
        return httpx.post(f"{cluster.url}/tokenize", json=body, headers=cluster.headers()).json()["tokens"]

    assert count('{"b":1,"a":"x"}') == count({"b": 1, "a": "x"})


def test_the_developer_is_the_system(cluster):
    def tokens(role):
        body = {"model": "tiny", "messages": [{"role": role, "content": "x"}, {"role": "user", "content": "y"}]}
        return httpx.post(f"{cluster.url}/tokenize", json=body, headers=cluster.headers()).json()["tokens"]

    assert tokens("developer") == tokens("system")


@pytest.mark.parametrize("example", THINK[:5], ids=lambda e: e["id"])
def test_reasoning_is_split_off(client, example):
    thoughts, answer = example["expected"].removeprefix("<think>\n").split("\n</think>\n\n")
    whole = ask(client, example)
    assert whole.choices[0].message.reasoning_content == thoughts
    assert whole.choices[0].message.content == answer
    assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens
    reasoning, content = "", ""
    for chunk in ask(client, example, stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    assert (reasoning, content) == (thoughts, answer)


def test_raw_output_is_not_split(client):
    for example in (THINK[0], TOOLS[0]):
        message = ask(client, example, extra_body={"include_raw_output": True}).choices[0].message
        assert message.content == example["expected"]
        assert not message.tool_calls
        assert getattr(message, "reasoning_content", None) is None


def test_a_schema_keeps_a_model_from_reasoning_it_was_not_asked_for(client):
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    message = ask(client, THINK[0], response_format=form, max_tokens=400).choices[0].message
    assert set(json.loads(message.content)) == {"sum"}
    assert getattr(message, "reasoning_content", None) is None


def test_echo(client):
    answer = client.completions.create(model="tiny", prompt=["Hello", "你好"], echo=True, max_tokens=2, temperature=0)
    plain = client.completions.create(model="tiny", prompt=["Hello", "你好"], max_tokens=2, temperature=0)
    for with_prompt, without, prompt in zip(answer.choices, plain.choices, ["Hello", "你好"], strict=True):
        assert with_prompt.text == prompt + without.text
    stream = client.completions.create(
        model="tiny", prompt="Hello", echo=True, max_tokens=2, temperature=0, stream=True
    )
    assert "".join(c.choices[0].text for c in stream) == answer.choices[0].text


def test_echo_scores_a_prompt(client):
    """What evaluation harnesses ask: no new token, the log-likelihood of the prompt."""
    text = "Fathom is a distributed inference server"
    scored = client.completions.create(
        model="tiny", prompt=text, echo=True, max_tokens=0, logprobs=1, extra_body={"n": 2}
    )
    for choice in scored.choices:
        assert choice.text == text
        assert "".join(choice.logprobs.tokens) == text
        assert choice.logprobs.token_logprobs[0] is None
        assert all(p < 0 for p in choice.logprobs.token_logprobs[1:])
        assert choice.finish_reason == "length"
    assert scored.usage.completion_tokens == 0


def test_tokenize_and_detokenize(cluster):
    def post(path, **body):
        return httpx.post(f"{cluster.url}{path}", json={"model": "tiny", **body}, headers=cluster.headers())

    answer = post("/tokenize", prompt="你好 world", return_token_strs=True).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 4096
    assert post("/detokenize", tokens=answer["tokens"]).json() == {"prompt": "你好 world"}
    assert post("/tokenize").status_code == 400
    assert post("/detokenize", tokens=[-1]).json()["error"]["param"] == "tokens"
    assert httpx.post(f"{cluster.url}/tokenize", json={}).status_code == 401


def test_bad_tools_get_clear_errors(client):
    bad = [
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ]
    for options, param in bad:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, TOOLS[0], **options)
        assert caught.value.param == param
    broken = [{"type": "function", "function": {"name": "f", "parameters": {"type": "no such type"}}}]
    with pytest.raises(openai.BadRequestError):
        ask(client, TOOLS[0], tools=broken, tool_choice="required")


def test_calls_over_grpc(inference, stubs):
    pb = stubs[0]
    example = TOOLS[0]
    chat = pb.ChatInput(messages_json=json.dumps(example["messages"]), tools_json=json.dumps(example["tools"]))
    request = pb.GenerateRequest(model="tiny", chat=chat, sampling=pb.Sampling(temperature=0))
    pieces, text = [], ""
    for message in inference.Generate(request, metadata=AUTH):
        pieces += message.tool_calls
        text += message.text_delta
    assert text == ""
    assert (pieces[0].name, json.loads("".join(p.arguments for p in pieces))) == call_of(example)
    request.chat.tool_choice = "nobody"
    with pytest.raises(grpc.RpcError) as caught:
        list(inference.Generate(request, metadata=AUTH))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
