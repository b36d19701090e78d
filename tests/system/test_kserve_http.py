"""KServe v2 over HTTP: Triton's own client for tensors, a plain one for generate."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy
import pytest
import tritonclient.http as triton
from harness import KEY, wait_for
from tritonclient.utils import InferenceServerException

MESSAGES = [{"role": "user", "content": "What is Fathom?"}]
ANSWER = "Fathom is a distributed inference server for large language models."
PROMPT = "<|im_start|>user\nWhat is Fathom?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def kserve(cluster):
    with triton.InferenceServerClient(f"127.0.0.1:{cluster.master.ports()['http']}") as client:
        yield client


@pytest.fixture
def post(cluster):
    def send(path, body, **more):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | auth() | more.pop("headers", {})
        return httpx.post(f"{cluster.url}/v2/{path}", content=content, headers=headers, timeout=60)

    return send


def tensor(name, datatype, values, binary=True, shape=None):
    types = {"BYTES": numpy.object_, "INT32": numpy.int32, "INT64": numpy.int64, "FP32": numpy.float32}
    array = numpy.array(values, dtype=types[datatype]).reshape(shape or [len(values)])
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def auth():
    """A new dictionary every time: the client writes into the one it gets."""
    return {"Authorization": f"Bearer {KEY}"}


def events(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_health_needs_no_key_and_all_else_does(cluster, kserve):
    assert kserve.is_server_live()
    assert kserve.is_server_ready()
    places = [("GET", p) for p in ("", "/models/tiny", "/models/tiny/ready", "/models/tiny/config", "/models/stats")]
    places += [("POST", f"/models/tiny/{p}") for p in ("infer", "generate", "generate_stream")]
    places += [("POST", f"/repository/{p}") for p in ("index", "models/tiny/load", "models/tiny/unload")]
    places += [("GET", "/nowhere"), ("GET", "/models/tiny/health/live")]
    for method, place in places:
        answer = httpx.request(method, f"{cluster.url}/v2{place}")
        assert answer.status_code == 401, place
        assert isinstance(answer.json()["error"], str)
    with pytest.raises(InferenceServerException) as error:
        kserve.get_server_metadata()
    assert error.value.status() == "401"


def test_metadata(kserve):
    server = kserve.get_server_metadata(headers=auth())
    assert server["name"] == "fathom"
    assert "binary_tensor_data" in server["extensions"]
    assert kserve.is_model_ready("tiny", headers=auth())
    assert kserve.is_model_ready("tiny", "1", headers=auth())
    assert not kserve.is_model_ready("tiny", "2", headers=auth())
    model = kserve.get_model_metadata("tiny", "1", headers=auth())
    assert (model["name"], model["versions"], model["platform"]) == ("tiny", ["1"], "fathom")
    assert {"name": "input_ids", "datatype": "INT32", "shape": [-1]} in model["inputs"]
    config = kserve.get_model_config("tiny", headers=auth())
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["max_batch_size"] == 0
    assert {i["data_type"] for i in config["output"]} == {"TYPE_STRING", "TYPE_INT32"}
    index = kserve.get_model_repository_index(headers=auth())
    assert index == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
    for call in (kserve.get_model_metadata, kserve.get_model_config, kserve.get_inference_statistics):
        for name, version in (("other", ""), ("tiny", "2")):
            with pytest.raises(InferenceServerException) as error:
                call(name, version, headers=auth())
            assert error.value.status() == "404"


def test_models_are_the_operators_business(kserve):
    kserve.load_model("tiny", headers=auth())
    for call, said in (
        (lambda: kserve.load_model("other", headers=auth()), "'other'"),
        (lambda: kserve.load_model("tiny", config="{}", headers=auth()), "parameters are refused"),
        (lambda: kserve.unload_model("tiny", headers=auth()), "fathom model unload"),
        (lambda: kserve.unload_model("org/other", headers=auth()), "'org/other'"),
    ):
        with pytest.raises(InferenceServerException, match=said):
            call()
    assert kserve.is_model_ready("tiny", headers=auth())


@pytest.mark.parametrize("binary", [True, False])
def test_infer(kserve, binary):
    inputs = [
        tensor("messages", "BYTES", [json.dumps(MESSAGES)], binary),
        tensor("temperature", "FP32", [0.0], not binary),
    ]
    outputs = [triton.InferRequestedOutput("text_output", binary), triton.InferRequestedOutput("output_ids")]
    result = kserve.infer("tiny", inputs, "1", outputs, request_id="mine", headers=auth())
    text = result.as_numpy("text_output").item()
    assert (text.decode() if binary else text).strip() == ANSWER
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "tiny", "1")
    assert response["parameters"]["completion_tokens"] == len(result.as_numpy("output_ids"))
    assert [o["name"] for o in response["outputs"]] == ["text_output", "output_ids"]


def test_all_outputs_by_default_in_bytes(kserve):
    result = kserve.infer("tiny", [tensor("text_input", "BYTES", [PROMPT])], headers=auth())
    assert result.as_numpy("text_output").item().decode().strip() == ANSWER
    assert result.as_numpy("finish_reason").item() == b"stop"
    ids = result.as_numpy("output_ids")
    again = kserve.infer(
        "tiny", [tensor("text_input", "BYTES", [PROMPT])], headers=auth(), parameters={"max_tokens": 4}
    )
    assert again.as_numpy("output_ids").tolist() == ids.tolist()[:4]
    assert again.as_numpy("finish_reason").item() == b"length"


def test_json_alone(post):
    body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [[PROMPT]]}]}
    answer = post("models/tiny/versions/1/infer", body).json()
    assert answer["outputs"][0]["data"][0].strip() == ANSWER
    assert answer["outputs"][2] == {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["stop"]}


def infer_body(**changes):
    return {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]} | changes]}


BAD_BODIES = [
    ("infer", b"", "JSON"),
    ("infer", b"[" * 100000, "JSON"),
    ("infer", {}, "'inputs': is required"),
    ("infer", {"inputs": []}, "exactly one"),
    ("infer", {"inputs": [5]}, "objects"),
    ("infer", infer_body(name="image"), "'image'"),
    ("infer", infer_body(datatype="STRING"), "datatype"),
    ("infer", infer_body(datatype="FP16", data=[1]), "FP16"),
    ("infer", infer_body(data=[1]), "strings"),
    ("infer", infer_body(data=["a", "b"]), "needs 1 elements and 2 came"),
    ("infer", infer_body(shape=[1 << 40]), "too large"),
    ("infer", infer_body(shape=[-1]), "negative"),
    ("infer", infer_body(shape=[1] * 9), "shape"),
    ("infer", infer_body(data=None), "either data or binary_data_size"),
    ("infer", infer_body(data=None, parameters={"binary_data_size": 9}), "ends before"),
    ("infer", infer_body(data=None, parameters={"shared_memory_region": "a"}), "shared_memory_region"),
    ("infer", infer_body(name="input_ids", datatype="INT32", data=[1 << 40]), "no INT32"),
    ("infer", infer_body() | {"parameters": {"temperature": -1}}, "temperature"),
    ("infer", infer_body() | {"parameters": {"top_p": [1]}}, "top_p"),
    ("infer", infer_body() | {"parameters": {"stream": True}}, "generate_stream"),
    ("infer", infer_body() | {"outputs": [{"name": "logits"}]}, "'logits'"),
    ("infer", infer_body() | {"surprise": 1}, "'surprise'"),
    ("generate", {}, "exactly one"),
    ("generate", {"text_input": 5}, "strings"),
    ("generate", {"text_input": "x", "surprise": 1}, "'surprise'"),
    ("generate", {"text_input": "x", "max_tokens": 1, "parameters": {"max_tokens": 1}}, "comes twice"),
    ("generate", {"text_input": "x", "stream": True}, "generate_stream"),
    ("generate", {"input_ids": [1, "a"]}, "no INT64"),
    ("generate_stream", {"text_input": "x", "temperature": -1}, "temperature"),
]


@pytest.mark.parametrize(("place", "body", "said"), BAD_BODIES, ids=lambda v: str(v)[:60])
def test_bad_bodies_are_refused_and_say_why(post, place, body, said):
    answer = post(f"models/tiny/{place}", body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_bytes_after_the_json_must_belong_to_inputs(post):
    head = json.dumps(infer_body()).encode()
    for length, tail in ((len(head), b"tail"), (len(head) + 1, b""), ("many", b"")):
        answer = post("models/tiny/infer", head + tail, headers={"Inference-Header-Content-Length": str(length)})
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_manners(cluster, post):
    assert post("models/tiny", {}).status_code == 405
    assert post("nowhere", {}).status_code == 404
    assert post("models/other/generate", {"text_input": "x"}).status_code == 404
    assert post("models/tiny/versions/7/generate", {"text_input": "x"}).status_code == 404
    assert post("models/tiny/generate", {"text_input": "x"}, headers={"Content-Type": "text/plain"}).status_code == 415
    answer = httpx.get(f"{cluster.url}/v2", headers=auth() | {"Origin": "http://evil.example"})
    assert answer.status_code == 403


def test_generate(post):
    answer = post("models/tiny/generate", {"id": "mine", "text_input": PROMPT, "parameters": {"temperature": 0}}).json()
    assert answer["text_output"].strip() == ANSWER
    assert (answer["id"], answer["model_name"], answer["finish_reason"]) == ("mine", "tiny", "stop")
    assert answer["completion_tokens"] == len(answer["output_ids"])
    chat = post("models/tiny/generate", {"messages": MESSAGES, "stop": ["server", "inference"]}).json()
    assert chat["text_output"] == "Fathom is a distributed "
    assert post("models/tiny/generate", {"messages": MESSAGES, "max_tokens": 3}).json()["finish_reason"] == "length"


def test_generate_stream(cluster):
    def stream(body):
        url = f"{cluster.url}/v2/models/tiny/generate_stream"
        with httpx.stream("POST", url, json=body, headers=auth(), timeout=60) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            return events(answer.iter_lines())

    deltas = stream({"text_input": PROMPT, "stream": True})
    assert len(deltas) > 3
    assert "".join(d["text_output"] for d in deltas).strip() == ANSWER
    assert [d["finish_reason"] for d in deltas] == [""] * (len(deltas) - 1) + ["stop"]
    assert deltas[-1]["completion_tokens"] == sum(len(d["output_ids"]) for d in deltas)
    (whole,) = stream({"text_input": PROMPT, "stream": False})
    assert whole["text_output"].strip() == ANSWER


def busy(cluster):
    text = httpx.get(f"http://127.0.0.1:{cluster.worker.ports()['metrics']}/metrics").text
    return float(re.search(r"^fathom_worker_requests (\S+)", text, re.MULTILINE).group(1))


LONG = {"messages": MESSAGES, "max_tokens": 3900, "ignore_eos": True}


def test_a_client_that_leaves_a_stream_stops_the_engine(cluster):
    url = f"{cluster.url}/v2/models/tiny/generate_stream"
    with httpx.stream("POST", url, json=LONG, headers=auth(), timeout=60) as answer:
        assert any(busy(cluster) for _ in answer.iter_lines())
        left_at = time.monotonic()
    wait_for(lambda: busy(cluster) == 0, "an idle engine", 5)
    assert time.monotonic() - left_at < 3


def test_a_client_that_gives_up_waiting_stops_the_engine(cluster):
    wait_for(lambda: busy(cluster) == 0, "an idle engine")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{cluster.url}/v2/models/tiny/generate", json=LONG, headers=auth(), timeout=0.4)
    left_at = time.monotonic()
    wait_for(lambda: busy(cluster) == 0, "an idle engine", 5)
    assert time.monotonic() - left_at < 1


def test_a_stream_outlives_its_worker(own_cluster):
    url = f"{own_cluster.url}/v2/models/tiny/generate_stream"
    seen = []
    with httpx.stream("POST", url, json=LONG | {"max_tokens": 800}, headers=auth(), timeout=60) as answer:
        for line in answer.iter_lines():
            seen.append(line)
            if len(seen) == 3:
                own_cluster.restart_worker()
    said = events(seen)
    assert all("error" not in event for event in said)
    assert len(said) > 10


def test_clients_side_by_side(cluster):
    def ask(i):
        with triton.InferenceServerClient(f"127.0.0.1:{cluster.master.ports()['http']}") as client:
            inputs = [tensor("text_input", "BYTES", [PROMPT], binary=i % 2 == 0)]
            return client.infer("tiny", inputs, headers=auth()).as_numpy("text_output").item().decode().strip()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(24))) == {ANSWER}


def test_statistics(kserve, post):
    def statistics():
        (model,) = kserve.get_inference_statistics("tiny", "1", headers=auth())["model_stats"]
        return model

    before = statistics()
    post("models/tiny/generate", {"messages": MESSAGES, "max_tokens": 2})
    after = statistics()
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert kserve.get_inference_statistics(headers=auth())["model_stats"][0]["name"] == "tiny"


def test_metrics_name_no_model(cluster, post):
    post("models/no-such-model/generate", {"text_input": "x"})
    text = httpx.get(f"{cluster.url}/metrics").text
    assert 'place="/v2/models/generate"' in text
    assert "no-such-model" not in text
