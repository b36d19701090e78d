"""Clients that nobody here wrote: OpenAI's for Node, and LangChain."""

import json
import shutil
import subprocess

import openai
import pytest
from harness import KEY, ROOT, clean_environment, examples
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

NODE_TESTS = ROOT / "tests" / "clients" / "node"
ABOUT = "What is Fathom?"
ABOUT_ANSWER = "Fathom is a distributed inference server for large language models."


def run_node(cluster, file):
    assert shutil.which("node") and (NODE_TESTS / "node_modules").is_dir(), (
        "scripts/setup.sh installs node and its packages"
    )
    environment = clean_environment() | {"FATHOM_URL": cluster.url, "FATHOM_KEY": KEY}
    done = subprocess.run(
        ["node", "--test", file], cwd=NODE_TESTS, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_openai_for_node(cluster):
    run_node(cluster, "chat.test.mjs")


@pytest.fixture
def langchain(cluster):
    def make(**options):
        options = {"model": "tiny", "temperature": 0, "api_key": KEY, "max_retries": 0} | options
        return ChatOpenAI(base_url=f"{cluster.url}/v1", **options)

    return make


def test_langchain_asks(langchain):
    answer = langchain().invoke(ABOUT)
    assert answer.content.strip() == ABOUT_ANSWER
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"
    assert [a.content.strip() for a in langchain().batch([ABOUT] * 4)] == [ABOUT_ANSWER] * 4


def test_langchain_streams(langchain):
    chunks = list(langchain(stream_usage=True).stream([SystemMessage("Answer briefly."), HumanMessage(ABOUT)]))
    assert len(chunks) > 3
    assert "".join(c.content for c in chunks).strip() == ABOUT_ANSWER
    assert chunks[-1].usage_metadata or any(c.usage_metadata for c in chunks)


def test_langchain_keeps_a_conversation(langchain):
    kinds = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    example = examples("memory")[0]
    messages = [kinds[m["role"]](m["content"]) for m in example["messages"]]
    assert langchain().invoke(messages).content.strip() == example["expected"]


def test_langchain_passes_options(langchain):
    model = langchain(max_tokens=3, stop=["inference"], seed=3, frequency_penalty=0.1, logprobs=True, top_logprobs=2)
    answer = model.invoke(ABOUT)
    assert answer.response_metadata["finish_reason"] == "length"
    assert len(answer.response_metadata["logprobs"]["content"]) == 3


class Order(BaseModel):
    """An order."""

    name: str
    item: str
    count: int
    city: str


def test_langchain_gets_structured_output(langchain):
    example = examples("extract")[0]
    order = langchain().with_structured_output(Order, method="json_schema").invoke(example["messages"])
    assert order == Order.model_validate_json(example["expected"])


def test_langchain_sees_errors(langchain):
    with pytest.raises(openai.AuthenticationError):
        langchain(api_key="wrong").invoke(ABOUT)
    with pytest.raises(openai.NotFoundError):
        langchain(model="none").invoke(ABOUT)
    with pytest.raises(openai.BadRequestError) as error:
        langchain().invoke("word " * 6000)
    assert "4096" in error.value.message


def test_tools_with_openai_for_node(cluster):
    run_node(cluster, "tools.test.mjs")


@pytest.mark.parametrize("streamed", [False, True])
def test_langchain_gets_tool_calls(langchain, streamed):
    for example in examples("tool")[:5]:
        model = langchain().bind_tools(example["tools"])
        answer = None
        if streamed:
            for chunk in model.stream(example["messages"]):
                answer = chunk if answer is None else answer + chunk
        else:
            answer = model.invoke(example["messages"])
        wanted = json.loads(example["expected"].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        assert [(c["name"], c["args"]) for c in answer.tool_calls] == [(wanted["name"], wanted["arguments"])]
        assert "tool_call" not in answer.content
        assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_langchain_sends_results_back(langchain):
    example = examples("tool")[0]
    model = langchain(max_tokens=64).bind_tools(example["tools"])
    call = model.invoke(example["messages"])
    result = ToolMessage('{"price": 40}', tool_call_id=call.tool_calls[0]["id"])
    assert isinstance(model.invoke([*example["messages"], call, result]), AIMessage)
