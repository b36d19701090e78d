"""Schemas hold: whatever a model would rather say, at temperature 1."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import openai
import pytest
import schemas
from harness import KEY, sample
from prometheus_client.parser import text_string_to_metric_families

COUNT = sample(300)
MESSAGES = [{"role": "user", "content": "Extract the order as JSON. Send 12 lamps to Ada in Oslo."}]
CHECKER = jsonschema.FormatChecker(formats=["date", "ipv4", "uuid"])


def check(schema, text):
    jsonschema.validate(json.loads(text), schema, format_checker=CHECKER)


def mask_times(cluster):
    """{upper bound in seconds: masks the worker filled in less}."""
    text = httpx.get(f"http://127.0.0.1:{cluster.worker.ports()['metrics']}/metrics").text
    [family] = [f for f in text_string_to_metric_families(text) if f.name == "fathom_worker_grammar_mask_seconds"]
    return {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}


def below(times, part):
    """The bound under which this part of the times lies, as text."""
    total = times[float("inf")]
    return f"{next(bound for bound, count in sorted(times.items()) if count >= part * total) * 1e6:.0f} us"


@pytest.mark.timeout(240)
def test_every_answer_fits_its_schema(cluster, client, record_property):
    before = mask_times(cluster)

    def ask(seed):
        schema = schemas.make(seed)
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        answer = client.chat.completions.create(
            model="tiny", messages=MESSAGES, temperature=1, seed=seed, max_tokens=1500, response_format=form
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "stop", (seed, choice.message.content[-200:])
        check(schema, choice.message.content)
        return answer.usage.completion_tokens

    with ThreadPoolExecutor(16) as threads:
        tokens = list(threads.map(ask, range(COUNT)))
    record_property("schemas", f"{len(tokens)} of {COUNT} answers valid at temperature 1, {sum(tokens)} tokens")
    times = {bound: count - before[bound] for bound, count in mask_times(cluster).items()}
    assert times[float("inf")] >= sum(tokens) - COUNT, "masks that nobody timed"
    record_property("mask time", f"p50 <= {below(times, 0.5)}, p99 <= {below(times, 0.99)}")


@pytest.mark.timeout(240)
def test_every_required_call_fits_its_schema(client, record_property):
    def ask(seed):
        parameters = {f"tool_{i}": schemas.make(1000 + 2 * seed + i) for i in range(2)}
        tools = [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in parameters.items()]
        answer = client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            temperature=1,
            seed=seed,
            max_tokens=1500,
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=False,
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls", seed
        [call] = choice.message.tool_calls
        check(parameters[call.function.name], call.function.arguments)

    with ThreadPoolExecutor(16) as threads:
        calls = list(threads.map(ask, range(COUNT // 2)))
    record_property("required calls", f"{len(calls)} of {COUNT // 2} valid at temperature 1")


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE = {
    "many words": {"type": "json_schema", "value": {"enum": [f"word {i}" for i in range(20_000)]}},
    "deep nesting": {"type": "json_schema", "value": nested(20)},
    "endless reference": {"type": "json_schema", "value": {"$ref": "#"}},
    "no such reference": {"type": "json_schema", "value": {"$ref": "#/$defs/none"}},
    "unions of unions": {
        "type": "json_schema",
        "value": {
            "anyOf": [{"anyOf": [{"type": "string", "pattern": f"a{{{i},{j}}}"} for j in range(99)]} for i in range(50)]
        },
    },
    "huge repetition": {"type": "regex", "value": "(a{1,1000}){1,1000}"},
    "exponential": {"type": "regex", "value": "(a|aa|aaa)*b(a|b){200}" * 4},
    "long alternatives": {"type": "regex", "value": "|".join(f"x{i}.*y{i}" for i in range(4000))},
    "left recursion": {"type": "lark", "value": 'start: start start | "a"'},
    "too large": {"type": "regex", "value": "a" * 300_000},
}


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_grammar_slows_nobody(cluster, client, grammar):
    """Asked for again and again it is refused, or runs in bounded time; a stream beside it goes on."""
    gaps, stop = [], threading.Event()

    def bystand():
        with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0) as other:
            while not stop.is_set():
                stream = other.chat.completions.create(
                    model="tiny",
                    messages=MESSAGES,
                    stream=True,
                    max_tokens=200,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                last = time.monotonic()
                for _ in stream:
                    gaps.append(time.monotonic() - last)
                    last = time.monotonic()
                    if stop.is_set():
                        break

    beside = threading.Thread(target=bystand)
    beside.start()
    try:
        started, took = time.monotonic(), 0
        while time.monotonic() < started + 1:
            began = time.monotonic()
            try:
                client.chat.completions.create(
                    model="tiny", messages=MESSAGES, temperature=1, max_tokens=20, extra_body={"grammar": grammar}
                )
            except openai.APIStatusError as error:
                assert error.status_code == 400, error
                assert error.message
            took = max(took, time.monotonic() - began)
    finally:
        stop.set()
        beside.join()
    assert took < 15
    assert gaps, "the bystander heard nothing"
    assert sorted(gaps)[len(gaps) // 2] < 0.5
    assert max(gaps) < 5
