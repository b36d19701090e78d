import subprocess
import sys

import grpc
import openai
import pytest
from harness import KEY, ROOT, SANITIZED, Cluster, Up
from pairs import Pair, real_worker, sim_worker


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Shared by all tests that leave it as it was."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path):
    """For a test that breaks it."""
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def start_up(tmp_path):
    """start_up(*flags) starts `fathom up`; all are killed at the end."""
    running = []

    def start(*flags):
        running.append(Up(tmp_path, *flags))
        return running[-1]

    yield start
    for process in running:
        process.close()


@pytest.fixture(scope="session")
def client(cluster):
    timeout = 600 if SANITIZED else 60
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0, timeout=timeout) as made:
        yield made


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """(messages, services) generated from proto/ as any user of it would."""
    out = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}"]
    subprocess.run([*command, f"--grpc_python_out={out}", "fathom/v1/inference.proto"], check=True)
    sys.path.insert(0, str(out))
    from fathom.v1 import inference_pb2, inference_pb2_grpc

    return inference_pb2, inference_pb2_grpc


@pytest.fixture
def inference(cluster, stubs):
    with grpc.insecure_channel(cluster.master.grpc_address) as channel:
        yield stubs[1].InferenceStub(channel)


@pytest.fixture
def pair(tmp_path):
    """Two masters and two simulated workers."""
    pair = Pair(tmp_path, sim_worker)
    yield pair
    pair.close()


@pytest.fixture
def real_pair(tmp_path):
    """Two masters and two workers that run the model, whose tokens do not depend on what else runs."""
    pair = Pair(tmp_path, real_worker)
    yield pair
    pair.close()
