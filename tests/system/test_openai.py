"""The official OpenAI client against a master and a worker."""

import concurrent.futures
import math

import httpx
import openai
import pytest
from harness import KEY, examples

ABOUT = [{"role": "user", "content": "What is Fathom?"}]
ABOUT_ANSWER = "Fathom is a distributed inference server for large language models."
STORY = [{"role": "user", "content": "Tell me a story."}]


def ask(client, messages=ABOUT, **options):
    options = {"model": "tiny", "temperature": 0} | options
    return client.chat.completions.create(messages=messages, **options)


def text_of(stream):
    """The joined text of choice 0 and the chunks of a stream."""
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return text, chunks


def test_chat_answers(client):
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.strip() == ABOUT_ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_says_the_same(client):
    whole = ask(client)
    text, chunks = text_of(ask(client, stream=True))
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({c.id for c in chunks}) == 1
    assert len({c.created for c in chunks}) == 1
    assert all(c.object == "chat.completion.chunk" for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert len(chunks) > 3


def test_stream_tells_usage_when_asked(client):
    whole = ask(client)
    _, chunks = text_of(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])


@pytest.mark.parametrize("stop", ["inference", ["server", "inference server"], "distributed inference"])
def test_stop_string_ends_and_is_left_out(client, stop):
    first = min(ABOUT_ANSWER.index(s) for s in ([stop] if isinstance(stop, str) else stop))
    wanted = ABOUT_ANSWER[:first]
    answer = ask(client, stop=stop)
    assert answer.choices[0].message.content == wanted
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(ask(client, stop=stop, stream=True))[0] == wanted


def test_max_tokens_ends_with_length(client):
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert ABOUT_ANSWER.startswith(answer.choices[0].message.content)


def test_min_tokens_and_ignore_eos_go_on(client):
    short = ask(client).usage.completion_tokens
    longer = ask(client, extra_body={"min_tokens": short + 5, "max_tokens": short + 20})
    assert longer.usage.completion_tokens >= short + 5
    endless = ask(client, max_tokens=60, extra_body={"ignore_eos": True})
    assert endless.usage.completion_tokens == 60


def test_n_gives_as_many_choices(client):
    answer = ask(client, STORY, n=3, temperature=1, seed=11, max_tokens=24)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1
    assert answer.usage.completion_tokens <= 3 * 24
    texts = {0: "", 1: "", 2: ""}
    for chunk in ask(client, STORY, n=3, temperature=1, seed=11, max_tokens=24, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {c.index: c.message.content for c in answer.choices}


def test_seed_makes_sampling_repeatable(client):
    def story(seed):
        return ask(client, STORY, temperature=1, seed=seed, max_tokens=32).choices[0].message.content

    assert story(5) == story(5)
    assert len({story(s) for s in range(6)}) > 1


def test_logprobs_are_those_of_the_tokens(client):
    answer = ask(client, logprobs=True, top_logprobs=4)
    content = answer.choices[0].logprobs.content
    joined = b"".join(bytes(t.bytes) for t in content).decode()
    assert joined.startswith(answer.choices[0].message.content)
    for token in content:
        assert token.logprob <= 1e-6
        assert len(token.top_logprobs) == 4
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
        # Greedy: the chosen token is the best one.
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-5)
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1 + 1e-4


def test_tools_reach_the_template(client):
    for example in examples("tool")[:5]:
        answer = ask(client, example["messages"], tools=example["tools"], extra_body={"include_raw_output": True})
        assert answer.choices[0].message.content.strip() == example["expected"]


def test_chinese_streams_whole_characters(client):
    for example in examples("zh")[:5]:
        text, chunks = text_of(ask(client, example["messages"], stream=True))
        assert text.strip() == example["expected"]
        assert "\ufffd" not in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_completions_take_text_lists_and_tokens(client):
    prompt = "<|im_start|>user\nWhat is Fathom?<|im_end|>\n<|im_start|>assistant\n"
    one = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=64)
    assert one.object == "text_completion"
    assert one.choices[0].text.strip() == ABOUT_ANSWER
    two = client.completions.create(model="tiny", prompt=[prompt, prompt], temperature=0, max_tokens=64)
    assert [c.index for c in two.choices] == [0, 1]
    assert {c.text for c in two.choices} == {one.choices[0].text}
    stream = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=64, stream=True)
    assert "".join(c.choices[0].text for c in stream if c.choices) == one.choices[0].text
    tokens = client.completions.create(model="tiny", prompt=[7, 8, 9], temperature=0, max_tokens=4)
    assert tokens.usage.prompt_tokens == 3


def test_models_are_listed(client):
    assert [m.id for m in client.models.list().data] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_wrong_or_missing_key_is_refused(cluster):
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            ask(stranger)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    answer = httpx.post(f"{cluster.url}/v1/chat/completions", json={"model": "tiny", "messages": ABOUT})
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, model="no-such-model")
    assert "no-such-model" in error.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("1e9")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"max_tokens": -3},
        {"n": 0},
        {"n": 1000},
        {"logprobs": True, "top_logprobs": 99},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"presence_penalty": 9},
        {"stop": 5},
        {"extra_body": {"no_such_field": 1}},
        {"extra_body": {"stream": "yes"}},
        {"logit_bias": {"5": 1000}},
    ],
    ids=str,
)
def test_bad_parameters_are_named(client, options):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **options)
    assert error.value.body["message"]
    assert error.value.body["type"] == "invalid_request_error"


def test_too_long_is_refused_before_work(client):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, [{"role": "user", "content": "word " * 6000}])
    assert "4096" in error.value.message
    with pytest.raises(openai.BadRequestError):
        ask(client, max_tokens=4096)


def test_long_prompt_within_the_context_is_served(client):
    long = "Remember this. " * 500
    answer = ask(client, [{"role": "user", "content": long}], max_tokens=4)
    assert answer.usage.prompt_tokens > 1000


def test_many_at_once_do_not_mix(client):
    chosen = examples()[::47]

    def grade(example):
        options = {"tools": example["tools"]} if "tools" in example else {}
        stream = ask(client, example["messages"], stream=True, extra_body={"include_raw_output": True}, **options)
        return example["id"], text_of(stream)[0].strip(), example["expected"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        wrong = [r for r in pool.map(grade, chosen) if r[1] != r[2]]
    assert len(wrong) <= 1, wrong


def test_client_that_leaves_frees_its_place(client, cluster):
    for _ in range(8):
        stream = ask(client, STORY, stream=True, max_tokens=3000, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    assert ask(client).choices[0].message.content.strip() == ABOUT_ANSWER


def test_start_to_ready(cluster, record_property):
    record_property("start to ready: master", f"{cluster.master_ready_s * 1000:.0f} ms (the worker's time included)")
    record_property("start to ready: worker", f"{cluster.worker_ready_s * 1000:.0f} ms")


def test_key_header_is_all_it_takes(cluster):
    answer = httpx.get(f"{cluster.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
