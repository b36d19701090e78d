"""Health and reflection on the gRPC port."""

import json
import queue
import shutil
import subprocess
import threading

import grpc
import pytest
from harness import KEY, ROOT, Master

HEALTH_SERVICES = ("", "fathom.v1.Inference", "inference.GRPCInferenceService")


def health_request(service):
    return bytes([0x0A, len(service)]) + service.encode() if service else b""


def test_health_knows_its_services(cluster):
    with grpc.insecure_channel(cluster.master.grpc_address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        for service in HEALTH_SERVICES:
            assert check(health_request(service)) == b"\x08\x01"  # SERVING
        with pytest.raises(grpc.RpcError) as error:
            check(health_request("no.such.Service"))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        unknown = watch(health_request("no.such.Service"))
        assert next(unknown) == b"\x08\x03"  # SERVICE_UNKNOWN
        unknown.cancel()


def test_health_watch_follows_readiness(own_cluster):
    with grpc.insecure_channel(own_cluster.master.grpc_address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(health_request("inference.GRPCInferenceService"))
        seen = queue.Queue()
        thread = threading.Thread(target=lambda: drain(watch, seen), daemon=True)
        thread.start()
        assert seen.get(timeout=10) == b"\x08\x01"
        own_cluster.worker.close()
        assert seen.get(timeout=20) == b"\x08\x02"  # NOT_SERVING
        own_cluster.restart_worker()
        assert seen.get(timeout=20) == b"\x08\x01"
        watch.cancel()


def drain(stream, seen):
    try:
        for message in stream:
            seen.put(message)
    except grpc.RpcError:
        pass


def test_grpcurl_finds_its_way_by_reflection(tmp_path):
    grpcurl = shutil.which("grpcurl") or shutil.which(ROOT / ".cache" / "bin" / "grpcurl")
    if grpcurl is None:
        pytest.skip("no grpcurl: scripts/setup.sh --go builds it where there is Go")
    with Master(tmp_path, extra=("--grpc-reflection",)) as master:
        base = [grpcurl, "-plaintext", "-H", f"authorization: Bearer {KEY}"]

        def call(*arguments):
            return subprocess.run([*base, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout

        listed = call(master.grpc_address, "list").split()
        assert {"inference.GRPCInferenceService", "fathom.v1.Inference", "grpc.health.v1.Health"} <= set(listed)
        methods = call(master.grpc_address, "list", "inference.GRPCInferenceService").split()
        assert len(methods) == 12
        assert "message ModelInferRequest" in call(master.grpc_address, "describe", "inference.ModelInferRequest")
        found = call("-d", '{"name": "tiny"}', master.grpc_address, "inference.GRPCInferenceService/ModelMetadata")
        assert json.loads(found)["platform"] == "fathom"
