"""Our Python client over gRPC, with two masters and two workers; and its package, built and installed as by a user."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
from conservation import wait_until_idle
from harness import KEY, ROOT, clean_environment, wait_for
from pairs import Pair, real_worker, sim_worker
from test_migration import STORY

CLIENT = ROOT / "clients" / "python"
subprocess.run([sys.executable, CLIENT / "protos.py"], check=True)

from fathom_client import BadRequestError  # noqa: E402
from fathom_client.rpc import AsyncGrpcClient, GrpcClient, pb  # noqa: E402


@pytest.fixture
def pair(tmp_path, request):
    pair = Pair(tmp_path, request.param)
    yield pair
    pair.close()


@pytest.fixture
def sim_pair(tmp_path):
    pair = Pair(tmp_path, sim_worker)
    yield pair
    pair.close()


def request_of(max_tokens=300, n=2):
    chat = pb.ChatInput(messages_json=json.dumps(STORY))
    stop = pb.Stop(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(model="tiny", chat=chat, stop=stop, n=n, sampling=pb.Sampling(temperature=1, seed=5))


def addresses(pair):
    return [master.grpc_address for master in pair.masters]


class Gathered:
    def __init__(self):
        self.ids, self.texts, self.tokens, self.ends, self.usage = set(), {}, {}, {}, None

    def add(self, message):
        self.ids.add(message.id)
        self.texts[message.choice] = self.texts.get(message.choice, "") + message.text_delta
        self.tokens.setdefault(message.choice, []).extend(message.token_ids)
        if message.finish:
            assert message.choice not in self.ends
            self.ends[message.choice] = message.finish
        if message.HasField("usage"):
            assert self.usage is None
            self.usage = (message.usage.prompt_tokens, message.usage.completion_tokens)
        return sum(map(len, self.tokens.values()))

    def answer(self):
        assert len(self.ids) == 1
        assert self.usage is not None
        return self.texts, self.tokens, self.ends, self.usage


def undisturbed(pair):
    gathered = Gathered()
    with GrpcClient(addresses(pair)[1:], api_key=KEY) as client:
        for message in client.generate(request_of()):
            gathered.add(message)
    return gathered.answer()


def kill_master(pair):
    pair.masters[0].signal(signal.SIGKILL)


def kill_master_and_worker(pair):
    (worker,) = [worker for worker in pair.workers if pair.running(worker)]
    kill_master(pair)
    worker.signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("pair", "kill"),
    # A real worker may have ended before it is found out which one it was.
    [(sim_worker, kill_master), (sim_worker, kill_master_and_worker), (real_worker, kill_master)],
    indirect=["pair"],
)
def test_a_stream_survives(pair, kill):
    expected = undisturbed(pair)
    gathered, killed = Gathered(), False
    with GrpcClient(addresses(pair), api_key=KEY) as client, client.generate(request_of()) as stream:
        for message in stream:
            if gathered.add(message) > 50 and not killed:
                kill(pair)
                killed = True
        assert stream.resumed == 1
        assert [model.id for model in client.list_models().models] == ["tiny"]
    assert gathered.answer() == expected


def test_the_asynchronous_client_survives_as_well(sim_pair):
    expected = undisturbed(sim_pair)

    async def ask():
        gathered = Gathered()
        async with AsyncGrpcClient(addresses(sim_pair), api_key=KEY) as client:
            stream = client.generate(request_of())
            async for message in stream:
                if gathered.add(message) > 50 and stream.resumed == 0 and sim_pair.masters[0].popen.poll() is None:
                    kill_master(sim_pair)
        assert stream.resumed == 1
        return gathered.answer()

    assert asyncio.run(ask()) == expected


def test_who_leaves_on_purpose_leaves_no_work_behind(sim_pair):
    def leave():
        with GrpcClient(addresses(sim_pair), api_key=KEY) as client:
            for _ in client.generate(request_of(1500)):
                break

    async def leave_async():
        async with AsyncGrpcClient(addresses(sim_pair), api_key=KEY) as client:

            async def read():
                async for _ in client.generate(request_of(1500)):
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    for way in (leave, lambda: asyncio.run(leave_async())):
        way()
        wait_for(lambda: not any(map(sim_pair.running, sim_pair.workers)), "the request's end at its worker", 3)
        assert wait_until_idle(sim_pair.masters[0]).ended["ok"] == 0


def test_refusals_and_the_other_calls(cluster):
    with GrpcClient(cluster.master.grpc_address, api_key=KEY) as client:
        tokens = client.tokenize(pb.TokenizeRequest(model="tiny", text="The sea")).token_ids
        assert client.detokenize(pb.DetokenizeRequest(model="tiny", token_ids=tokens)).text == "The sea"
        with pytest.raises(BadRequestError, match="top_p"):
            list(client.generate(pb.GenerateRequest(model="tiny", text="x", sampling=pb.Sampling(top_p=2))))


PROGRAM = """
from fathom_client import Client
from fathom_client.rpc import GrpcClient, pb
import fathom_client, os
assert fathom_client.__file__.startswith(os.environ["PYTHONPATH"])
with Client() as client:
    print(client.chat([{"role": "user", "content": "Multiply 6 by 6."}], model="tiny", temperature=0).text)
with GrpcClient(os.environ["GRPC"]) as client:
    print([model.id for model in client.list_models().models])
"""


def test_its_package_is_whole(cluster, tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "*_pb2.py*")
    shutil.copytree(CLIENT, source / "clients" / "python", ignore=ignore)
    shutil.copytree(ROOT / "proto", source / "proto")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, source / "clients" / "python"]
    subprocess.run(wheel, check=True)
    (made,) = tmp_path.glob("fathom_client-*.whl")
    names = zipfile.ZipFile(made).namelist()
    assert {"fathom_client/py.typed", "fathom_client/_proto/inference_pb2.pyi"} < set(names)
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, made], check=True)
    environment = clean_environment() | {"PYTHONPATH": str(installed), "FATHOM_URL": cluster.url}
    environment |= {"FATHOM_API_KEY": KEY, "GRPC": cluster.master.grpc_address}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 x 6 = 36\n['tiny']\n"
