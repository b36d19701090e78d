"""Our Python client over two masters and two workers: what dies under it, its caller does not see."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest
from conservation import scrape, wait_until_idle
from fathom_client import AsyncClient, Client, DeadlineExceeded, Policy
from fathom_client._openai import Gatherer
from harness import KEY, ROOT, access_lines, clean_environment, wait_for
from pairs import Pair
from test_bench import SimWorker
from test_docs import read_examples
from test_migration import KINDS, STORY

CLIENT = ROOT / "clients" / "python"
README = CLIENT / "README.md"
LONG = {"model": "tiny", "max_tokens": 200, "temperature": 0}


@pytest.fixture
def client(pair):
    with Client([master.url for master in pair.masters], api_key=KEY) as client:
        yield client


def answer_of(answer):
    """What must be the same, however it came; the prefix cache may know more the second time."""
    usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.reasoning_tokens)
    return answer.model, answer.choices, usage


def undisturbed(pair, body):
    with Client(pair.masters[1].url, api_key=KEY) as client:
        return answer_of(client.chat(STORY, stream=True, **body).collect())


def busy(pair):
    return [worker for worker in pair.workers if pair.running(worker)]


def kill_master(pair):
    pair.masters[0].signal(signal.SIGKILL)


def kill_master_and_worker(pair):
    (worker,) = busy(pair)
    kill_master(pair)
    worker.signal(signal.SIGKILL)


@pytest.mark.parametrize(("kill", "source"), [(kill_master, "worker"), (kill_master_and_worker, "anew")])
def test_a_stream_survives(pair, client, kill, source):
    expected = undisturbed(pair, LONG)
    stream = client.chat(STORY, stream=True, **LONG)
    killer = threading.Timer(0.6, kill, (pair,))
    killer.start()
    answer = stream.collect()
    killer.join()
    assert answer_of(answer) == expected
    assert stream.resumed == 1
    assert pair.resumed(pair.masters[1], source) == 1
    wait_until_idle(pair.masters[1])


def test_a_master_that_hangs(pair):
    expected = undisturbed(pair, LONG)
    hang = threading.Timer(0.6, lambda: pair.masters[0].signal(signal.SIGSTOP))
    with Client([m.url for m in pair.masters], api_key=KEY, policy=Policy(silence=1)) as client:
        stream = client.chat(STORY, stream=True, **LONG)
        hang.start()
        answer = stream.collect()
    assert answer_of(answer) == expected
    assert stream.resumed == 1
    assert pair.resumed(pair.masters[1], "worker") == 1


@pytest.mark.parametrize("kill", [kill_master, kill_master_and_worker])
def test_the_asynchronous_client_survives_as_well(pair, kill):
    expected = undisturbed(pair, LONG)

    async def ask():
        async with AsyncClient([master.url for master in pair.masters], api_key=KEY) as client:
            streams = [client.chat(STORY, stream=True, **LONG) for _ in range(4)]
            tasks = [asyncio.create_task(stream.collect()) for stream in streams]
            await asyncio.sleep(0.6)
            kill_master(pair) if len(busy(pair)) != 1 else kill(pair)
            return [answer_of(answer) for answer in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == [expected] * 4


def test_a_master_killed_before_the_first_token(tmp_path):
    """While the prompt is read: there is no event to go on from, but the request has a name."""
    pair = Pair(tmp_path, slow_worker)
    try:
        body = LONG | {"max_tokens": 4}
        expected = undisturbed(pair, body)
        with Client([master.url for master in pair.masters], api_key=KEY) as client:
            stream = client.chat(STORY, stream=True, **body)
            killer = threading.Timer(0.4, kill_master, (pair,))
            killer.start()
            answer = stream.collect()
            killer.join()
        assert answer_of(answer) == expected
        assert stream.resumed == 0
        assert pair.resumed(pair.masters[1], "worker") == 1
    finally:
        pair.close()


def slow_worker(folder, links, name):
    return SimWorker(folder, links[0], "free,step_us=700000", name=name, extra=["--master", links[1]])


def test_whole_answers_survive(pair, client):
    body = LONG | {"n": 2}
    with Client(pair.masters[1].url, api_key=KEY) as other:
        expected = other.chat(STORY, **body)
    before = tokens_made(pair)
    killer = threading.Timer(0.6, kill_master, (pair,))
    killer.start()
    answer = client.chat(STORY, **body)
    killer.join()
    assert answer_of(answer) == answer_of(expected)
    assert pair.resumed(pair.masters[1], "worker") == 1
    assert tokens_made(pair) - before == 400, "computed once"


def tokens_made(pair):
    made = [scrape(f"http://127.0.0.1:{w.ports()['metrics']}") for w in pair.workers]
    return sum(value("fathom_worker_output_tokens_total") for value in made)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_of_real_workers(real_pair, kind):
    body = {"model": "tiny"} | KINDS[kind]
    expected = undisturbed(real_pair, body)
    with Client([master.url for master in real_pair.masters], api_key=KEY) as client:
        stream = client.chat(STORY, stream=True, **body)
        gatherer = Gatherer()
        for delta in stream:
            gatherer.add(delta)
            if stream.resumed == 0 and real_pair.masters[0].popen.poll() is None:
                kill_master(real_pair)
        assert answer_of(gatherer.answer(stream._journey.head)) == expected
        assert stream.resumed == 1


def test_completions_tokens_and_models(real_pair):
    body = {"model": "tiny", "n": 2, "max_tokens": 60, "seed": 4, "logprobs": 2, "ignore_eos": True}
    prompts = ["Once upon", "The sea"]
    with Client([master.url for master in real_pair.masters], api_key=KEY) as client:
        expected = client.complete(prompts, **body)
        assert [m.id for m in client.models()] == ["tiny"]
        tokens = client.tokenize(model="tiny", prompt=prompts[0], return_token_strs=True)
        assert len(tokens.strings) == len(tokens.ids) > 0
        assert client.detokenize(tokens.ids, model="tiny") == prompts[0]
        chat = client.tokenize(model="tiny", messages=STORY)
        assert len(chat.ids) > 10 and chat.max_model_len == client.models()[0].max_model_len
        stream = client.complete(prompts, stream=True, **body)
        first = next(stream)
        kill_master(real_pair)
        rest = stream.collect()
        # And with their master gone.
        assert client.detokenize(tokens.ids, model="tiny") == prompts[0]
        assert client.complete(prompts, **body).choices == expected.choices
    got = {first.choice: first.text}
    for choice in rest.choices:
        got[choice.index] = got.get(choice.index, "") + choice.text
    assert got == {choice.index: choice.text for choice in expected.choices}
    assert rest.usage.completion_tokens == expected.usage.completion_tokens == 240


def leave_by_closing(client):
    with client.chat(STORY, stream=True, **(LONG | {"max_tokens": 1500})) as stream:
        next(stream)


def leave_by_breaking_a_loop(client):
    for _ in client.chat(STORY, stream=True, **(LONG | {"max_tokens": 1500})):
        break


def leave_at_the_deadline(client):
    with pytest.raises(DeadlineExceeded):
        client.chat(STORY, stream=True, deadline=1, **(LONG | {"max_tokens": 1500})).collect()


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_breaking_a_loop, leave_at_the_deadline])
def test_who_leaves_on_purpose_leaves_no_work_behind(pair, client, leave):
    leave(client)
    wait_for(lambda: not busy(pair), "the request's end at its worker", 3)
    ended = wait_until_idle(pair.masters[0])
    assert ended.ended["ok"] == 0


def test_a_cancelled_task_leaves_no_work_behind(pair):
    async def ask():
        async with AsyncClient([master.url for master in pair.masters], api_key=KEY) as client:
            stream = client.chat(STORY, stream=True, **(LONG | {"max_tokens": 1500}))
            task = asyncio.create_task(stream.collect())
            await asyncio.sleep(0.6)
            assert len(busy(pair)) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            whole = asyncio.create_task(asyncio.wait_for(client.chat(STORY, **(LONG | {"max_tokens": 1500})), 0.6))
            with pytest.raises(asyncio.TimeoutError):
                await whole

    asyncio.run(ask())
    wait_for(lambda: not busy(pair), "the requests' end at their worker", 3)
    wait_until_idle(pair.masters[0])


def test_a_finished_stream_is_no_failure_at_the_server(pair, client):
    stream = client.chat(STORY, stream=True, **(LONG | {"max_tokens": 5}))
    stream.collect()
    time.sleep(0.2)
    (line,) = access_lines(pair.masters[0], stream.request_id)
    assert '"error.message":""' in line or "error.message" not in line, line


@pytest.mark.parametrize(
    ("code", "output"),
    [pytest.param(e[2], e[3], id=f"line {e[0]}") for e in read_examples(README.read_text()) if e[1] == "python"],
)
def test_examples_of_its_readme_run(cluster, code, output):
    environment = clean_environment() | {"PYTHONPATH": str(CLIENT / "src"), "FATHOM_API_KEY": KEY}
    environment |= {"FATHOM_URL": cluster.url, "FATHOM_GRPC": cluster.master.grpc_address}
    subprocess.run([sys.executable, CLIENT / "protos.py"], check=True)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == output
