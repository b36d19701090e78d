"""A gRPC client from generated stubs."""

import json

import grpc
import pytest
from harness import KEY, examples

AUTH = (("authorization", f"Bearer {KEY}"),)
MESSAGES = json.dumps([{"role": "user", "content": "What is Fathom?"}])
ANSWER = "Fathom is a distributed inference server for large language models."


@pytest.fixture
def chat(stubs):
    pb = stubs[0]

    def make(messages=MESSAGES, **fields):
        sampling = fields.pop("sampling", pb.Sampling(temperature=0))
        return pb.GenerateRequest(model="tiny", chat=pb.ChatInput(messages_json=messages), sampling=sampling, **fields)

    return make


def join(stream):
    """Text and tokens of choice 0, its finish reason, the usage."""
    text, tokens, finish, usage = "", [], 0, None
    for message in stream:
        text += message.text_delta
        tokens += message.token_ids
        finish = message.finish or finish
        usage = message.usage if message.HasField("usage") else usage
    return text, tokens, finish, usage


def test_generate_streams(inference, stubs, chat):
    text, tokens, finish, usage = join(inference.Generate(chat(), metadata=AUTH))
    assert text.strip() == ANSWER
    assert finish == stubs[0].FINISH_REASON_STOP
    assert usage.completion_tokens >= len(tokens) - 1 > 0
    assert usage.prompt_tokens > 0


def test_tokens_in_are_the_same_as_text_in(inference, stubs, chat):
    pb = stubs[0]
    request = pb.TokenizeRequest(model="tiny", chat=pb.ChatInput(messages_json=MESSAGES))
    ids = inference.Tokenize(request, metadata=AUTH).token_ids
    by_chat = join(inference.Generate(chat(), metadata=AUTH))
    by_ids = pb.GenerateRequest(model="tiny", tokens=pb.TokenInput(ids=ids), sampling=pb.Sampling(temperature=0))
    answer = join(inference.Generate(by_ids, metadata=AUTH))
    assert answer[:2] == by_chat[:2]
    assert by_chat[3].prompt_tokens == len(ids)


def test_tokenize_and_detokenize_are_inverse(inference, stubs):
    pb = stubs[0]
    for text in ("What is Fathom?", "你好，世界 🙂", "e\u0301 tabs\tand\nlines  spaces"):
        ids = inference.Tokenize(pb.TokenizeRequest(model="tiny", text=text), metadata=AUTH).token_ids
        assert inference.Detokenize(pb.DetokenizeRequest(model="tiny", token_ids=ids), metadata=AUTH).text == text


def test_choices_stop_and_limits(inference, stubs, chat):
    pb = stubs[0]
    assert join(inference.Generate(chat(stop=pb.Stop(strings=["inference"])), metadata=AUTH))[0] == (
        "Fathom is a distributed "
    )
    _, tokens, finish, _ = join(inference.Generate(chat(stop=pb.Stop(max_tokens=3)), metadata=AUTH))
    assert finish == pb.FINISH_REASON_LENGTH
    assert len(tokens) == 3
    request = chat(n=3, sampling=pb.Sampling(temperature=1, seed=3), stop=pb.Stop(max_tokens=8))
    assert {m.choice for m in inference.Generate(request, metadata=AUTH)} == {0, 1, 2}


def test_raw_output_of_tools(inference, stubs):
    pb = stubs[0]
    example = examples("tool")[0]
    chat_input = pb.ChatInput(messages_json=json.dumps(example["messages"]), tools_json=json.dumps(example["tools"]))
    request = pb.GenerateRequest(
        model="tiny", chat=chat_input, sampling=pb.Sampling(temperature=0), include_raw_output=True
    )
    assert join(inference.Generate(request, metadata=AUTH))[0].strip() == example["expected"]


def test_list_models(inference, stubs):
    models = inference.ListModels(stubs[0].ListModelsRequest(), metadata=AUTH).models
    assert [m.id for m in models] == ["tiny"]
    assert models[0].context_length == 4096
    assert models[0].ready_workers == 1


def code_of(call):
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.details()
    return error.value.code()


def test_errors_have_their_codes(inference, stubs, chat):
    pb = stubs[0]
    generate = inference.Generate
    assert code_of(generate(chat())) == grpc.StatusCode.UNAUTHENTICATED
    assert code_of(generate(chat(), metadata=(("authorization", "Bearer x"),))) == grpc.StatusCode.UNAUTHENTICATED
    wrong_model = chat()
    wrong_model.model = "no-such-model"
    assert code_of(generate(wrong_model, metadata=AUTH)) == grpc.StatusCode.NOT_FOUND
    bad = [
        chat(messages="no json"),
        chat(messages="[]"),
        chat(sampling=pb.Sampling(temperature=-1)),
        chat(sampling=pb.Sampling(top_p=2)),
        chat(n=100000),
        pb.GenerateRequest(model="tiny"),
        pb.GenerateRequest(model="tiny", tokens=pb.TokenInput(ids=[99999999])),
    ]
    for request in bad:
        assert code_of(generate(request, metadata=AUTH)) == grpc.StatusCode.INVALID_ARGUMENT, request
    too_long = json.dumps([{"role": "user", "content": "word " * 6000}])
    code = code_of(generate(chat(messages=too_long), metadata=AUTH))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)


def test_cancelled_call_ends(inference, stubs, chat):
    stop = stubs[0].Stop(max_tokens=3000, ignore_eos=True)
    call = inference.Generate(chat(stop=stop), metadata=AUTH)
    next(call)
    call.cancel()
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.CANCELLED


def test_health_service(cluster):
    with grpc.insecure_channel(cluster.master.grpc_address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        # HealthCheckResponse{status: SERVING} is field 1, varint 1.
        assert check(b"") == b"\x08\x01"
