"""Clients of KServe over HTTP that come back get the rest, as those of OpenAI's places do (test_resume.py)."""

import json
import signal
import threading

import httpx
import pytest
from harness import KEY, wait_for
from pairs import OTHER_KEY

BODY = {"text_input": "A story:", "max_tokens": 200, "temperature": 0}
PLACE = "v2/models/tiny/generate_stream"


class Reader:
    def __init__(self, body=BODY, key=KEY, place=PLACE, headers=None):
        self.body, self.place = body, place
        self.headers = {"Authorization": f"Bearer {key}"} | (headers or {})
        self.last_id, self.text, self.usage = None, "", []

    def read(self, url, until=None):
        """Over one connection; true when it ended as it should."""
        headers = self.headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        try:
            with httpx.stream("POST", f"{url}/{self.place}", json=self.body, headers=headers, timeout=60) as answer:
                if answer.status_code != 200:
                    answer.read()
                    answer.raise_for_status()
                event = None
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        event = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        piece = json.loads(line.removeprefix("data: "))
                        assert "error" not in piece, piece
                        assert event, "an event without an id"
                        self.last_id, event = event, None
                        self.text += piece["text_output"]
                        if "completion_tokens" in piece:
                            self.usage.append(piece["completion_tokens"])
                        if until is not None and until(self):
                            return False
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError):
            return False
        return True


def undisturbed(pair):
    reader = Reader()
    assert reader.read(pair.masters[1].url)
    assert reader.usage == [200]
    return reader.text


def some(reader):
    return len(reader.text) > 20


def test_a_killed_masters_stream_goes_on_at_another(pair):
    expected = undisturbed(pair)
    reader = Reader()
    threading.Timer(0.6, lambda: pair.masters[0].signal(signal.SIGKILL)).start()
    assert not reader.read(pair.masters[0].url)
    assert some(reader)
    assert reader.usage == []
    assert reader.read(pair.masters[1].url)
    assert reader.text == expected
    assert reader.usage == [200], "told once"
    assert pair.resumed(pair.masters[1], "worker") == 1
    # Who comes back behind the end hears that it was the end.
    again = Reader()
    again.last_id = reader.last_id
    assert again.read(pair.masters[1].url)
    assert (again.text, again.usage) == ("", [])


def test_a_held_stream_goes_on_without_its_client(pair):
    expected = undisturbed(pair)
    reader = Reader(headers={"X-Fathom-Resume": "30s"})
    assert not reader.read(pair.masters[0].url, until=some)
    assert reader.read(pair.masters[0].url)
    assert reader.text == expected
    assert pair.resumed(pair.masters[0], "here") == 1


def test_nobody_else_gets_the_rest(pair):
    reader = Reader(headers={"X-Fathom-Resume": "30s"})
    assert not reader.read(pair.masters[0].url, until=some)
    for how in (
        {"key": OTHER_KEY},
        {"body": BODY | {"max_tokens": 201}},
        {"place": "v2/models/tiny/versions/1/generate_stream"},
    ):
        stranger = Reader(**how)
        stranger.last_id = reader.last_id
        with pytest.raises(httpx.HTTPStatusError) as refused:
            stranger.read(pair.masters[1].url)
        assert refused.value.response.status_code == 404
        assert "behind" in refused.value.response.json()["error"], refused.value.response.text
    assert reader.read(pair.masters[1].url)


@pytest.mark.parametrize("place", ["generate", "infer"])
def test_an_idempotency_key_joins_what_runs(pair, place):
    if place == "infer":
        inputs = [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [BODY["text_input"]]}]
        body = {"inputs": inputs, "parameters": {"max_tokens": 200, "temperature": 0}}
    else:
        body = BODY
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "once"}

    def post(master):
        return httpx.post(f"{master.url}/v2/models/tiny/{place}", json=body, headers=headers, timeout=60)

    broken = []

    def try_first():
        try:
            post(pair.masters[0])
        except httpx.HTTPError as error:
            broken.append(error)

    thread = threading.Thread(target=try_first)
    thread.start()
    wait_for(lambda: sum(map(pair.running, pair.workers)) == 1, "the request at a worker")
    other = httpx.post(f"{pair.masters[1].url}/{PLACE}", json=BODY, headers=headers, timeout=60)
    assert other.status_code == 422, other.text
    pair.masters[0].signal(signal.SIGKILL)
    thread.join()
    assert len(broken) == 1
    answer = post(pair.masters[1])
    assert answer.status_code == 200, answer.text
    assert pair.resumed(pair.masters[1], "worker") == 1
    again = post(pair.masters[1])
    assert again.status_code == 200
    assert again.content == answer.content
