"""Clients that come back: to another master after theirs was killed, to the same one after a broken connection, with
the id of the last event or with an idempotency key. They get the rest, once, and nobody else does."""

import json
import signal
import threading
import time

import grpc
import httpx
import pytest
from conservation import check_conservation, scrape, wait_until_idle
from harness import KEY, wait_for
from pairs import OTHER_KEY
from test_migration import KINDS, STORY


class Reader:
    """Reads one streamed request as any client of server-sent events would, over as many connections as it takes."""

    def __init__(self, body, path="chat/completions", key=KEY, headers=None):
        self.body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}} | body
        self.path = path
        self.headers = {"Authorization": f"Bearer {key}"} | (headers or {})
        self.last_id = None
        self.text, self.logprobs, self.ends, self.roles, self.usage, self.done = {}, {}, {}, {}, None, False
        self.ids = []

    def read(self, url, until=None):
        """From one connection, until it ends or `until` says so; true when the answer is whole."""
        headers = self.headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        try:
            with httpx.stream("POST", f"{url}/v1/{self.path}", json=self.body, headers=headers, timeout=60) as answer:
                if answer.status_code != 200:
                    answer.read()
                    answer.raise_for_status()
                event_id = None
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        event_id = line[4:]
                    elif line == "data: [DONE]":
                        self.done = True
                    elif line.startswith("data: "):
                        assert event_id, "an event without an id"
                        self.take(json.loads(line[6:]))
                        self.last_id, event_id = event_id, None
                        if until is not None and until(self):
                            return False
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError):
            return False
        return self.done

    def take(self, chunk):
        assert "error" not in chunk, chunk
        self.ids.append((chunk["id"], chunk["created"]))
        if chunk.get("usage"):
            assert self.usage is None
            self.usage = chunk["usage"]
        for choice in chunk["choices"]:
            index = choice["index"]
            assert index not in self.ends
            delta = choice.get("delta", {})
            if "role" in delta:
                self.roles[index] = self.roles.get(index, 0) + 1
            self.text[index] = self.text.get(index, "") + (delta.get("content") or choice.get("text") or "")
            if choice.get("logprobs"):
                self.logprobs.setdefault(index, []).append(choice["logprobs"])
            if choice["finish_reason"]:
                self.ends[index] = choice["finish_reason"]

    def answer(self):
        assert self.done
        assert len(set(self.ids)) == 1, "id and time of creation are the same in every chunk"
        assert all(count == 1 for count in self.roles.values())
        usage = dict(self.usage)
        usage.pop("prompt_tokens_details")
        flat = {}
        for index, pieces in self.logprobs.items():
            if "content" in pieces[0]:
                flat[index] = [position for piece in pieces for position in piece["content"]]
            else:
                flat[index] = {n: [v for p in pieces for v in p[n]] for n in ("tokens", "text_offset")}
        return {"text": self.text, "ends": self.ends, "usage": usage, "logprobs": flat}


STREAM = {"messages": STORY, "max_tokens": 200, "temperature": 0}


def undisturbed(pair, body, **how):
    reader = Reader(body, **how)
    assert reader.read(pair.masters[1].url)
    return reader.answer()


def long_enough(reader):
    return sum(map(len, reader.text.values())) > 20


def test_a_killed_masters_stream_goes_on_at_another(pair):
    expected = undisturbed(pair, STREAM)
    reader = Reader(STREAM)
    threading.Timer(0.6, lambda: pair.masters[0].signal(signal.SIGKILL)).start()
    assert not reader.read(pair.masters[0].url)
    assert long_enough(reader)
    assert reader.read(pair.masters[1].url)
    assert reader.answer() == expected
    assert pair.resumed(pair.masters[1], "worker") == 1
    wait_until_idle(pair.masters[1])


def test_a_master_and_its_worker_killed_together(pair):
    expected = undisturbed(pair, STREAM)
    reader = Reader(STREAM)

    def kill():
        busy = [worker for worker in pair.workers if pair.running(worker)]
        assert len(busy) == 1
        pair.masters[0].signal(signal.SIGKILL)
        busy[0].signal(signal.SIGKILL)

    threading.Timer(0.6, kill).start()
    assert not reader.read(pair.masters[0].url)
    assert reader.read(pair.masters[1].url)
    assert reader.answer() == expected
    assert pair.resumed(pair.masters[1], "anew") == 1


def test_a_resumed_stream_outlives_its_worker_too(pair):
    expected = undisturbed(pair, STREAM)
    reader = Reader(STREAM)
    assert not reader.read(pair.masters[0].url, until=long_enough)
    pair.masters[0].signal(signal.SIGKILL)

    def kill_worker(reader):
        if len(reader.text[0]) > 100 and len(victims) == 0:
            victims.extend(worker for worker in pair.workers if pair.running(worker))
            victims[0].signal(signal.SIGKILL)
        return False

    victims = []
    assert reader.read(pair.masters[1].url, until=kill_worker)
    assert len(victims) == 1
    assert reader.answer() == expected


def test_a_living_masters_request_is_claimed_from_it(pair):
    """The client's way to its master is gone, the master is not."""
    expected = undisturbed(pair, STREAM)
    reader = Reader(STREAM, headers={"X-Fathom-Resume": "30s"})
    assert not reader.read(pair.masters[0].url, until=long_enough)
    assert reader.read(pair.masters[1].url)
    assert reader.answer() == expected
    assert pair.resumed(pair.masters[1], "worker") == 1
    ended = wait_until_idle(pair.masters[0])
    assert ended.ended["cancelled"] == 1
    value = scrape(f"http://127.0.0.1:{pair.masters[0].ports()['metrics']}")
    assert value("fathom_master_migrations_total") == 0
    assert value("fathom_master_completion_tokens_total") == 0  # counted where it ended


def test_a_held_request_goes_on_without_its_client(pair):
    expected = undisturbed(pair, STREAM)
    master = pair.masters[0]
    reader = Reader(STREAM, headers={"X-Fathom-Resume": "30"})
    assert not reader.read(master.url, until=long_enough)
    wait_for(lambda: check_conservation(master).in_flight == 0, "its end without a client")
    assert check_conservation(master).ended["ok"] == 1
    assert reader.read(master.url)
    assert reader.answer() == expected
    assert pair.resumed(master, "here") == 1
    # While it runs, too.
    again = Reader(STREAM, headers={"X-Fathom-Resume": "30"})
    for length in (20, 60, 100):
        assert not again.read(master.url, until=lambda r, n=length: len(r.text.get(0, "")) > n)
    assert again.read(master.url)
    assert again.answer() == expected
    wait_until_idle(master)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("usage", [True, False])
def test_who_has_had_all_but_the_end_gets_the_end(pair, path, usage):
    body = {"max_tokens": 30, "temperature": 0, "stream_options": {"include_usage": usage}}
    body |= {"messages": STORY} if path.startswith("chat") else {"prompt": "A story:"}
    reader = Reader(body, path=path, headers={"X-Fathom-Resume": "30s"})
    assert not reader.read(pair.masters[0].url, until=lambda r: r.ends)
    text = dict(reader.text)
    assert reader.read(pair.masters[1].url)
    assert reader.text == text
    assert bool(reader.usage) == usage
    # And behind the very end there is nothing but that it is the end.
    reader.done = False
    assert reader.read(pair.masters[0].url)
    assert reader.text == text


def test_a_held_stream_may_go_to_another_master_and_come_back(pair):
    expected = undisturbed(pair, STREAM)
    reader = Reader(STREAM, headers={"X-Fathom-Resume": "30s"})
    for turn, length in enumerate((20, 60, 100)):
        assert not reader.read(pair.masters[turn % 2].url, until=lambda r, n=length: len(r.text[0]) > n)
    assert reader.read(pair.masters[1].url)
    assert reader.answer() == expected


def test_without_the_wish_to_resume_a_disconnect_cancels_at_once(pair):
    reader = Reader(STREAM | {"max_tokens": 1500})
    assert not reader.read(pair.masters[0].url, until=long_enough)
    wait_for(lambda: sum(map(pair.running, pair.workers)) == 0, "the request's end at its worker", 5)
    assert check_conservation(pair.masters[0]).ended["cancelled"] == 1
    # It can be had all the same: it is run again.
    assert reader.read(pair.masters[0].url)
    assert reader.usage["completion_tokens"] == 1500


def test_nobody_else_gets_the_rest(pair):
    reader = Reader(STREAM, headers={"X-Fathom-Resume": "30s"})
    assert not reader.read(pair.masters[0].url, until=long_enough)
    event = reader.last_id
    for url in (pair.masters[0].url, pair.masters[1].url):
        for key, body, last in (
            (OTHER_KEY, STREAM, event),
            (KEY, STREAM | {"max_tokens": 201}, event),
            (KEY, STREAM, ("1" if event[0] == "0" else "0") + event[1:]),
            (KEY, STREAM, "nonsense"),
            (KEY, STREAM, "x" * 4000),
        ):
            stranger = Reader(body, key=key)
            stranger.last_id = last
            with pytest.raises(httpx.HTTPStatusError) as refused:
                stranger.read(url)
            assert refused.value.response.status_code == 404, refused.value.response.text
    assert reader.read(pair.masters[1].url)


def test_an_idempotency_key_joins_what_runs(pair):
    body = {"model": "tiny"} | STREAM | {"max_tokens": 300}
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "once"}

    def post(url, headers=headers, body=body):
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    first = []

    def try_first():
        try:
            post(pair.masters[0].url)
        except httpx.HTTPError as error:
            first.append(error)

    thread = threading.Thread(target=try_first)
    thread.start()
    wait_for(lambda: sum(map(pair.running, pair.workers)) == 1, "the request at a worker")
    time.sleep(0.3)
    other = post(pair.masters[1].url, body=body | {"max_tokens": 299})
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    pair.masters[0].signal(signal.SIGKILL)
    thread.join()
    assert len(first) == 1
    answer = post(pair.masters[1].url)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 300
    assert pair.resumed(pair.masters[1], "worker") == 1
    made = [scrape(f"http://127.0.0.1:{w.ports()['metrics']}") for w in pair.workers]
    assert sum(value("fathom_worker_output_tokens_total") for value in made) == 300, "computed once"
    # Another caller's key of that name is another request.
    stranger = post(pair.masters[1].url, headers | {"Authorization": f"Bearer {OTHER_KEY}"}, body | {"max_tokens": 3})
    assert stranger.status_code == 200
    # And the same call again says the same.
    again = post(pair.masters[1].url)
    assert again.json()["choices"] == answer.json()["choices"]
    assert again.json()["id"] == answer.json()["id"]


@pytest.mark.parametrize(
    "header,value", [("Idempotency-Key", "x" * 256), ("X-Fathom-Resume", "0"), ("X-Fathom-Resume", "1h")]
)
def test_headers_that_cannot_be_are_refused(cluster, header, value):
    answer = httpx.post(
        f"{cluster.url}/v1/chat/completions",
        json={"model": "tiny", "messages": STORY, "max_tokens": 1},
        headers={"Authorization": f"Bearer {KEY}", header: value},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == header


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_real_workers_go_on_at_another_master(real_pair, kind):
    """Penalties, grammars, stop strings, logprobs and several choices: as if nothing had happened."""
    body = {"messages": STORY} | KINDS[kind]
    expected = undisturbed(real_pair, body)
    reader = Reader(body)
    assert not reader.read(real_pair.masters[0].url, until=long_enough)
    real_pair.masters[0].signal(signal.SIGKILL)
    # And once more, which runs it anew: nothing holds it.
    whole = reader.read(real_pair.masters[1].url, until=lambda r: sum(map(len, r.text.values())) > 200)
    assert whole or reader.read(real_pair.masters[1].url)
    assert reader.answer() == expected


def test_a_seed_is_drawn_that_every_master_would_draw(real_pair):
    """A sampled request without a seed, of which no worker has anything any more, goes on as it would have gone on."""
    body = {"messages": STORY, "temperature": 1.0, "max_tokens": 120, "ignore_eos": True}
    reader = Reader(body)
    assert not reader.read(real_pair.masters[0].url, until=long_enough)
    begun, event = dict(reader.text), reader.last_id
    time.sleep(0.3)
    texts = []
    for master in (real_pair.masters[1], real_pair.masters[0]):
        again = Reader(body)
        again.text, again.last_id, again.roles = dict(begun), event, dict(reader.roles)
        assert again.read(master.url)
        texts.append(again.text)
    assert texts[0] == texts[1]
    assert len(texts[0][0]) > len(begun[0])


def test_completions_of_several_prompts(real_pair):
    body = {"prompt": ["Once upon", "The sea"], "n": 2, "max_tokens": 60, "seed": 4, "logprobs": 1, "ignore_eos": True}
    expected = undisturbed(real_pair, body, path="completions")
    reader = Reader(body, path="completions")
    assert not reader.read(real_pair.masters[0].url, until=long_enough)
    real_pair.masters[0].signal(signal.SIGKILL)
    assert reader.read(real_pair.masters[1].url)
    assert reader.answer() == expected


def test_over_grpc(pair, stubs):
    pb, services = stubs

    def request(**fields):
        chat = pb.ChatInput(messages_json=json.dumps(STORY))
        stop = pb.Stop(max_tokens=200)
        return pb.GenerateRequest(
            model="tiny", chat=chat, stop=stop, n=2, sampling=pb.Sampling(temperature=0), **fields
        )

    def read(master, texts, limit=None, key=KEY, **fields):
        token, usage = fields.get("resume_token", ""), None
        with grpc.insecure_channel(master.grpc_address) as channel:
            call = services.InferenceStub(channel).Generate(
                request(**fields), metadata=(("authorization", f"Bearer {key}"),), timeout=60
            )
            for message in call:
                texts[message.choice] = texts.get(message.choice, "") + message.text_delta
                token = message.resume_token
                usage = message.usage if message.HasField("usage") else usage
                if limit and sum(map(len, texts.values())) > limit:
                    break
        return token, usage

    expected = {}
    _, whole = read(pair.masters[1], expected)
    texts = {}
    token, usage = read(pair.masters[0], texts, limit=30, resume_seconds=30)
    assert usage is None
    for master in pair.masters:
        with pytest.raises(grpc.RpcError) as refused:
            read(master, {}, key=OTHER_KEY, resume_token=token)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    token, usage = read(pair.masters[0], texts, limit=100, resume_seconds=30, resume_token=token)
    pair.masters[0].signal(signal.SIGKILL)
    _, usage = read(pair.masters[1], texts, resume_token=token)
    assert texts == expected
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.prompt_tokens, 400)
    # By name alone, and with the bounds of the fields.
    named = {}
    read(pair.masters[1], named, idempotency_key="a-name")
    assert named == expected
    with pytest.raises(grpc.RpcError) as refused:
        read(pair.masters[1], {}, resume_seconds=601)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
