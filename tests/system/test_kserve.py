"""KServe v2 over gRPC, driven by Triton's own client."""

import json
import queue
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2, descriptor_pool
from harness import KEY, ROOT, Cluster, wait_for
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

AUTH = {"authorization": f"Bearer {KEY}"}
MESSAGES = json.dumps([{"role": "user", "content": "What is Fathom?"}])
ANSWER = "Fathom is a distributed inference server for large language models."


@pytest.fixture
def kserve(cluster):
    with triton.InferenceServerClient(cluster.master.grpc_address) as client:
        yield client


def tensor(name, datatype, values, shape=None):
    """An input with `values`, sent raw."""
    types = {"BYTES": numpy.object_, "INT32": numpy.int32, "INT64": numpy.int64, "FP32": numpy.float32}
    types |= {"BOOL": numpy.bool_, "FP64": numpy.float64, "UINT64": numpy.uint64}
    array = numpy.array(values, dtype=types[datatype]).reshape(shape or [len(values)])
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


def chat(messages=MESSAGES, **settings):
    """Inputs of a chat; settings become tensors."""
    inputs = [tensor("messages", "BYTES", [messages])]
    types = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES", list: "BYTES"}
    for name, value in settings.items():
        inputs.append(tensor(name, types[type(value)], value if isinstance(value, list) else [value]))
    return inputs


def text_of(result):
    return b"".join(result.as_numpy("text_output").ravel()).decode()


def parameters_of(result):
    return {k: getattr(v, v.WhichOneof("parameter_choice")) for k, v in result.get_response().parameters.items()}


class Stream:
    """The responses of one ModelStreamInfer call, in the order they came."""

    def __init__(self, client, headers=AUTH):
        self.arrived = queue.Queue()
        self.client = client
        client.start_stream(lambda result, error: self.arrived.put((result, error)), headers=headers)

    def send(self, inputs, request_id="", final=False, **more):
        more = {"model_name": "tiny", "enable_empty_final_response": final} | more
        self.client.async_stream_infer(inputs=inputs, request_id=request_id, **more)

    def next(self):
        return self.arrived.get(timeout=60)

    def until_final(self, num_requests=1):
        """{request id: its responses}."""
        answers, left = {}, num_requests
        while left:
            result, error = self.next()
            assert error is None, error
            answers.setdefault(result.get_response().id, []).append(result)
            left -= parameters_of(result)["triton_final_response"]
        return answers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream(cancel_requests=True)


def worker_requests(cluster):
    """Requests the engine has on its hands."""
    text = httpx.get(f"http://127.0.0.1:{cluster.worker.ports()['metrics']}/metrics").text
    return float(re.search(r"^fathom_worker_requests (\S+)", text, re.MULTILINE).group(1))


def test_our_proto_has_the_numbers_of_the_real_one(tmp_path):
    out = tmp_path / "kserve.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "inference/kserve.proto"], check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    ours = pool.FindFileByName("inference/kserve.proto")
    theirs = {}
    for file in (service_pb2, model_config_pb2):
        theirs.update(file.DESCRIPTOR.message_types_by_name)
    num_fields = 0

    def compare(mine, real):
        nonlocal num_fields
        for field in mine.fields:
            other = real.fields_by_name[field.name]
            num_fields += 1
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field
            for kind in ("message_type", "enum_type", "containing_oneof"):
                one, two = getattr(field, kind), getattr(other, kind)
                assert (one and one.full_name) == (two and two.full_name), field.full_name
        for nested in mine.nested_types:
            compare(nested, real.nested_types_by_name[nested.name])

    for name, message in ours.message_types_by_name.items():
        compare(message, theirs[name])
    assert num_fields > 100
    for name, enum in ours.enum_types_by_name.items():
        real = model_config_pb2.DESCRIPTOR.enum_types_by_name[name]
        assert {v.name: v.number for v in enum.values} == {v.name: v.number for v in real.values}
    real_service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        real = real_service.methods_by_name[method.name]
        for kind in ("input_type", "output_type"):
            assert getattr(method, kind).full_name == getattr(real, kind).full_name
        assert (method.client_streaming, method.server_streaming) == (real.client_streaming, real.server_streaming)


def test_health_needs_no_key_and_all_else_does(kserve):
    assert kserve.is_server_live()
    assert kserve.is_server_ready()
    guarded = [
        lambda h: kserve.is_model_ready("tiny", headers=h),
        lambda h: kserve.get_server_metadata(headers=h),
        lambda h: kserve.get_model_metadata("tiny", headers=h),
        lambda h: kserve.get_model_config("tiny", headers=h),
        lambda h: kserve.get_inference_statistics("tiny", headers=h),
        lambda h: kserve.get_model_repository_index(headers=h),
        lambda h: kserve.load_model("tiny", headers=h),
        lambda h: kserve.unload_model("tiny", headers=h),
        lambda h: kserve.infer("tiny", chat(), headers=h),
    ]
    for call in guarded:
        for headers in (None, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException) as error:
                call(headers)
            assert error.value.status() == "StatusCode.UNAUTHENTICATED"
    with Stream(kserve, headers=None) as stream:
        assert stream.next()[1].status() == "StatusCode.UNAUTHENTICATED"


def test_metadata(kserve):
    server = kserve.get_server_metadata(headers=AUTH)
    assert server.name == "fathom"
    assert server.version
    assert {"binary_tensor_data", "statistics"} <= set(server.extensions)
    assert kserve.is_model_ready("tiny", headers=AUTH)
    assert kserve.is_model_ready("tiny", "1", headers=AUTH)
    model = kserve.get_model_metadata("tiny", headers=AUTH)
    assert (model.name, list(model.versions)) == ("tiny", ["1"])
    assert {t.name: (t.datatype, list(t.shape)) for t in model.outputs} == {
        "text_output": ("BYTES", [1]),
        "output_ids": ("INT32", [-1]),
        "finish_reason": ("BYTES", [1]),
    }
    config = kserve.get_model_config("tiny", headers=AUTH).config
    assert config.model_transaction_policy.decoupled
    assert {i.name for i in config.input} == {i.name for i in model.inputs}
    index = kserve.get_model_repository_index(headers=AUTH).models
    assert [(m.name, m.version, m.state) for m in index] == [("tiny", "1", "READY")]


def test_models_are_fixed(kserve):
    kserve.load_model("tiny", headers=AUTH)
    for call, code in (
        (lambda: kserve.load_model("other", headers=AUTH), "NOT_FOUND"),
        (lambda: kserve.load_model("tiny", config="{}", headers=AUTH), "INVALID_ARGUMENT"),
        (lambda: kserve.unload_model("tiny", headers=AUTH), "FAILED_PRECONDITION"),
        (lambda: kserve.unload_model("other", headers=AUTH), "NOT_FOUND"),
    ):
        with pytest.raises(InferenceServerException) as error:
            call()
        assert error.value.status() == f"StatusCode.{code}"
    assert kserve.is_model_ready("tiny", headers=AUTH)


@pytest.mark.parametrize("version", ["2", "0", "x"])
def test_other_versions_are_not_found(kserve, version):
    calls = [
        lambda: kserve.is_model_ready("tiny", version, headers=AUTH),
        lambda: kserve.get_model_metadata("tiny", version, headers=AUTH),
        lambda: kserve.infer("tiny", chat(), version, headers=AUTH),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException) as error:
            call()
        assert error.value.status() == "StatusCode.NOT_FOUND"


def test_infer_a_chat(kserve):
    result = kserve.infer("tiny", chat(temperature=0.0), "1", request_id="mine", headers=AUTH)
    assert text_of(result).strip() == ANSWER
    assert result.as_numpy("finish_reason").tolist() == [b"stop"]
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "tiny", "1")
    counts = parameters_of(result)
    assert counts["prompt_tokens"] > 0
    assert counts["completion_tokens"] == len(result.as_numpy("output_ids"))


def test_text_and_tokens_say_the_same(kserve, inference, stubs):
    prompt = "<|im_start|>user\nWhat is Fathom?<|im_end|>\n<|im_start|>assistant\n"
    by_text = kserve.infer("tiny", [tensor("text_input", "BYTES", [prompt], [1, 1])], headers=AUTH)
    assert text_of(by_text).strip() == ANSWER
    request = stubs[0].TokenizeRequest(model="tiny", text=prompt)
    ids = list(inference.Tokenize(request, metadata=tuple(AUTH.items())).token_ids)
    for datatype, shape in (("INT32", [len(ids)]), ("INT64", [1, len(ids)])):
        by_ids = kserve.infer("tiny", [tensor("input_ids", datatype, ids, shape)], headers=AUTH)
        assert by_ids.as_numpy("output_ids").tolist() == by_text.as_numpy("output_ids").tolist()
        assert parameters_of(by_ids)["prompt_tokens"] == len(ids)


def test_outputs_are_those_asked_for(kserve):
    outputs = [triton.InferRequestedOutput("finish_reason"), triton.InferRequestedOutput("text_output")]
    result = kserve.infer("tiny", chat(max_tokens=3), outputs=outputs, headers=AUTH)
    assert [o.name for o in result.get_response().outputs] == ["finish_reason", "text_output"]
    assert result.as_numpy("finish_reason").tolist() == [b"length"]
    assert result.as_numpy("output_ids") is None


def test_sampling_by_tensor_and_by_parameter(kserve):
    def sampled(inputs, **parameters):
        return kserve.infer("tiny", inputs, parameters=parameters, headers=AUTH).as_numpy("output_ids").tolist()

    by_tensor = sampled([*chat(max_tokens=12, temperature=2.0), tensor("seed", "UINT64", [7])])
    assert sampled(chat(), max_tokens=12, temperature=2.0, seed=7) == by_tensor
    assert sampled(chat(), max_tokens=12, temperature=2.0, seed=8) != by_tensor
    stopped = kserve.infer("tiny", chat(stop=["server", "inference"]), headers=AUTH)
    assert text_of(stopped) == "Fathom is a distributed "
    stopped = kserve.infer("tiny", chat(), parameters={"stop": "inference"}, headers=AUTH)
    assert text_of(stopped) == "Fathom is a distributed "


def test_typed_contents_are_read(cluster):
    with grpc.insecure_channel(cluster.master.grpc_address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        request = service_pb2.ModelInferRequest(model_name="tiny")
        request.inputs.add(name="messages", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
            MESSAGES.encode()
        )
        request.inputs.add(name="max_tokens", datatype="INT32", shape=[1]).contents.int_contents.append(3)
        metadata = tuple(AUTH.items())
        assert len(infer(request, metadata=metadata).raw_output_contents) == 3
        request.raw_input_contents.append(b"")
        with pytest.raises(grpc.RpcError) as error:
            infer(request, metadata=metadata)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def bad_requests():
    yield "exactly one", [tensor("max_tokens", "INT32", [1])], {}
    yield "exactly one", [*chat(), tensor("text_input", "BYTES", ["x"])], {}
    yield "'image'", [*chat(), tensor("image", "FP32", [1.0])], {}
    yield "BYTES", [tensor("text_input", "INT32", [1])], {}
    yield "one element", [tensor("text_input", "BYTES", ["a", "b"])], {}
    yield "INT32 or INT64", [tensor("input_ids", "FP32", [1.0])], {}
    yield "no token id", [tensor("input_ids", "INT64", [-1])], {}
    yield "vocabulary", [tensor("input_ids", "INT32", [99999999])], {}
    yield "empty", [tensor("input_ids", "INT32", [], [0])], {}
    yield "temperature", chat(temperature=-1.0), {}
    yield "top_p", chat(), {"top_p": 2.0}
    yield "'n'", chat(), {"n": 2}
    yield "comes as an input and as a parameter", chat(max_tokens=1), {"max_tokens": 1}
    yield "max_tokens", chat(max_tokens="many"), {}
    yield "ModelStreamInfer", chat(stream=True), {}
    yield "context length", chat(json.dumps([{"role": "user", "content": "word " * 6000}])), {}
    yield "", chat("no json"), {}


@pytest.mark.parametrize(("said", "inputs", "parameters"), bad_requests())
def test_bad_requests_are_refused_and_say_why(kserve, said, inputs, parameters):
    with pytest.raises(InferenceServerException) as error:
        kserve.infer("tiny", inputs, parameters=parameters, headers=AUTH)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert said in error.value.message()


def test_unknown_output_and_model(kserve):
    with pytest.raises(InferenceServerException, match="'logits'"):
        kserve.infer("tiny", chat(), outputs=[triton.InferRequestedOutput("logits")], headers=AUTH)
    with pytest.raises(InferenceServerException) as error:
        kserve.infer("other", chat(), headers=AUTH)
    assert error.value.status() == "StatusCode.NOT_FOUND"


def test_stream_of_deltas(kserve):
    with Stream(kserve) as stream:
        stream.send(chat(temperature=0.0), "a")
        responses = stream.until_final()["a"]
    assert len(responses) > 1, "what is ready together may come together, but not all of it"
    assert "".join(map(text_of, responses)).strip() == ANSWER
    finals = [parameters_of(r)["triton_final_response"] for r in responses]
    assert finals == [False] * (len(responses) - 1) + [True]
    assert [r.as_numpy("finish_reason").tolist() for r in responses[-2:]] == [[b""], [b"stop"]]
    ids = [i for r in responses for i in r.as_numpy("output_ids")]
    assert parameters_of(responses[-1])["completion_tokens"] == len(ids)


def test_empty_final_response_is_for_those_who_ask(kserve):
    with Stream(kserve) as stream:
        stream.send(chat(max_tokens=4), "a", final=True)
        responses = stream.until_final()["a"]
        assert len(responses[-1].get_response().outputs) == 0
        assert parameters_of(responses[-1])["completion_tokens"] == 4
        assert responses[-2].as_numpy("finish_reason").tolist() == [b"length"]
        stream.send(chat(max_tokens=4, stream=False), "whole")
        (whole,) = stream.until_final()["whole"]
        assert len(whole.as_numpy("output_ids")) == 4


def test_many_requests_in_one_stream_run_at_once(kserve):
    with Stream(kserve) as stream:
        stream.send(chat(max_tokens=400, ignore_eos=True), "long")
        stream.next()
        for i in range(100):  # more than are worked on at a time
            stream.send(chat(max_tokens=4), str(i))
        answers = stream.until_final(101)
    assert len(answers) == 101
    assert all(sum(len(r.as_numpy("output_ids")) for r in answers[str(i)]) == 4 for i in range(100))
    assert len({"".join(map(text_of, answers[str(i)])) for i in range(100)}) == 1


def test_errors_in_a_stream_end_one_request_only(kserve):
    with Stream(kserve) as stream:
        stream.send(chat(), "bad", parameters={"temperature": -1.0})
        result, error = stream.next()
        assert result is None
        assert "temperature" in error.message()
        stream.send(chat(), "bad", model_name="other")
        assert "other" in stream.next()[1].message()
        stream.send(chat(max_tokens=2), "good")
        assert stream.until_final()["good"]


def test_errors_end_a_stream_that_asked_for_it(kserve):
    with Stream(kserve, AUTH | {"triton_grpc_error": "true"}) as stream:
        stream.send(chat(), "bad", parameters={"temperature": -1.0})
        _, error = stream.next()
        assert error.status() == "StatusCode.INVALID_ARGUMENT"
        assert "temperature" in error.message()


def test_a_client_that_leaves_a_stream_stops_the_engine(kserve, cluster):
    wait_for(lambda: worker_requests(cluster) == 0, "an idle engine")
    stream = Stream(kserve)
    for i in range(3):
        stream.send(chat(max_tokens=3500, ignore_eos=True), str(i))
    stream.next()
    wait_for(lambda: worker_requests(cluster) > 0, "a busy engine")
    left_at = time.monotonic()
    kserve.stop_stream(cancel_requests=True)
    wait_for(lambda: worker_requests(cluster) == 0, "an idle engine", 5)
    assert time.monotonic() - left_at < 3


def test_a_client_that_reads_too_slowly_is_cut_off(tmp_path):
    config = tmp_path / "master.yaml"
    config.write_text("master:\n  limits:\n    client_backlog_bytes: 4096\n")
    # The transport shall hold little on its own.
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
    with Cluster(tmp_path, master_extra=("--config", config)) as own:
        with grpc.insecure_channel(own.master.grpc_address, options=window) as channel:
            infer = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
            )
            requests = queue.Queue()
            for i in range(16):
                request = service_pb2.ModelInferRequest(model_name="tiny", id=f"{i}-{'x' * 100}")
                request.inputs.add(name="messages", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
                    MESSAGES.encode()
                )
                request.parameters["max_tokens"].int64_param = 2000
                request.parameters["ignore_eos"].bool_param = True
                requests.put(request)
            call = infer(iter(requests.get, None), metadata=tuple(AUTH.items()))
            next(call)
            # Nothing is read meanwhile.
            wait_for(lambda: worker_requests(own) == 0, "every request cut off", 30)
            requests.put(None)
            errors = [m.error_message for m in call if m.error_message]
        assert errors
        assert all("reads too slowly" in e for e in errors)


def test_a_cancelled_infer_stops_the_engine(kserve, cluster):
    wait_for(lambda: worker_requests(cluster) == 0, "an idle engine")
    ended = queue.Queue()
    call = kserve.async_infer(
        "tiny",
        chat(max_tokens=3900, ignore_eos=True),
        lambda result, error: ended.put(error),
        headers=AUTH,
    )
    wait_for(lambda: worker_requests(cluster) > 0, "a busy engine")
    call.cancel()
    assert ended.get(timeout=10).status() == "StatusCode.CANCELLED"
    wait_for(lambda: worker_requests(cluster) == 0, "an idle engine", 5)


def test_deadlines(kserve, cluster):
    with pytest.raises(InferenceServerException) as error:
        kserve.infer("tiny", chat(max_tokens=3900, ignore_eos=True), client_timeout=0.2, headers=AUTH)
    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException) as error:
        kserve.infer("tiny", chat(max_tokens=3900, ignore_eos=True), timeout=100_000, headers=AUTH)
    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    wait_for(lambda: worker_requests(cluster) == 0, "an idle engine", 5)


def test_clients_side_by_side(cluster):
    def ask(i):
        with triton.InferenceServerClient(cluster.master.grpc_address) as client:
            if i % 2:
                return text_of(client.infer("tiny", chat(), headers=AUTH))
            with Stream(client) as stream:
                stream.send(chat(), "x")
                return "".join(map(text_of, stream.until_final()["x"]))

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(32)))
    assert {a.strip() for a in answers} == {ANSWER}


def test_statistics_are_real(kserve, client):
    def statistics():
        return kserve.get_inference_statistics("tiny", headers=AUTH).model_stats[0]

    before = statistics()
    kserve.infer("tiny", chat(max_tokens=20, ignore_eos=True), headers=AUTH)
    client.chat.completions.create(model="tiny", messages=json.loads(MESSAGES), max_tokens=20)
    with pytest.raises(InferenceServerException):
        kserve.infer("tiny", chat(max_tokens=5000), headers=AUTH)
    after = statistics()
    assert (after.name, after.version) == ("tiny", "1")
    assert after.inference_count - before.inference_count == 2
    old, new = before.inference_stats, after.inference_stats
    assert new.fail.count - old.fail.count == 1
    spent = {}
    for name in ("success", "queue", "compute_input", "compute_infer"):
        assert getattr(new, name).count - getattr(old, name).count == 2
        spent[name] = getattr(new, name).ns - getattr(old, name).ns
        assert spent[name] > 0
    parts = spent["queue"] + spent["compute_input"] + spent["compute_infer"]
    assert parts <= spent["success"] < 2 * parts
    assert abs(after.last_inference / 1000 - time.time()) < 60
    assert [m.name for m in kserve.get_inference_statistics(headers=AUTH).model_stats] == ["tiny"]
