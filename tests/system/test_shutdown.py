"""A master that is told to end: who waits for nothing does not hold it up, who waits for an answer gets it."""

import json
import queue
import signal
import threading
import time

import grpc
import pytest
import tritonclient.grpc as triton
from harness import KEY
from tritonclient.grpc import service_pb2, service_pb2_grpc

AT_ONCE_S = 1.5
MESSAGES = json.dumps([{"role": "user", "content": "What is Fathom?"}])


def infer(request_id, **numbers):
    request = service_pb2.ModelInferRequest(model_name="tiny", id=request_id)
    message = request.inputs.add(name="messages", datatype="BYTES", shape=[1])
    message.contents.bytes_contents.append(MESSAGES.encode())
    for name, value in numbers.items():
        request.parameters[name].int64_param = value
    return request


class Stream:
    """One ModelStreamInfer call that stays open until the other side ends it."""

    def __init__(self, channel):
        self.requests = queue.Queue()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.call = stub.ModelStreamInfer(iter(self.requests.get, None), metadata=[("authorization", f"Bearer {KEY}")])

    def answer(self):
        """The responses up to the last of a request."""
        got = []
        for response in self.call:
            got.append(response)
            if response.infer_response.parameters["triton_final_response"].bool_param:
                return got
        raise AssertionError("the stream ended")

    def close(self):
        self.requests.put(None)
        self.call.cancel()


@pytest.fixture
def channel(own_cluster):
    with grpc.insecure_channel(own_cluster.master.grpc_address) as made:
        yield made


def end(cluster):
    """Seconds from the signal to the end."""
    started = time.monotonic()
    cluster.master.signal(signal.SIGTERM)
    assert cluster.master.wait(20) == 0, cluster.master.log()[-2000:]
    return time.monotonic() - started


def test_idle_streams_are_ended_at_once(own_cluster, channel):
    never_used, used = Stream(channel), Stream(channel)
    used.requests.put(infer("a", max_tokens=4))
    assert used.answer()
    assert end(own_cluster) < AT_ONCE_S
    for stream in (never_used, used):
        with pytest.raises(grpc.RpcError) as error:
            next(stream.call)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in error.value.details()
        stream.close()


def test_a_busy_stream_gets_its_answer_first(own_cluster, channel):
    stream = Stream(channel)
    stream.requests.put(infer("a", max_tokens=1500, min_tokens=1500))
    next(stream.call)
    master = threading.Thread(target=end, args=(own_cluster,))
    master.start()
    responses = stream.answer()
    assert not any(response.error_message for response in responses)
    with pytest.raises(grpc.RpcError) as error:
        next(stream.call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    answered = time.monotonic()
    master.join(20)
    assert time.monotonic() - answered < AT_ONCE_S
    stream.close()


def test_watchers_of_health_do_not_hold_it_up(own_cluster, channel):
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert next(watch) == b"\x08\x01"
    assert end(own_cluster) < AT_ONCE_S
    with pytest.raises(grpc.RpcError):
        list(watch)


def test_idle_connections_do_not_hold_it_up(own_cluster):
    with triton.InferenceServerClient(own_cluster.master.grpc_address) as client:
        assert client.is_server_live()
        assert end(own_cluster) < AT_ONCE_S
