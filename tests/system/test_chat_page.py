"""The chat page in a headless Chromium: against real processes, and against a scripted server."""

import json
import threading

import httpx
from browser import ENTER, ESCAPE, JSON, TAB, UP, call, chunk, error, mock_server, stream
from harness import KEY, Cluster, wait_for
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["chat_page_fixtures"]

ABOUT_ANSWER = "Fathom is a distributed inference server for large language models."


# ---- against real processes ----


def test_headers_are_strict_and_unchanged_files_are_not_sent_again(cluster):
    for path, kind in (("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")):
        answer = httpx.get(cluster.url + path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        again = httpx.get(cluster.url + path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-length"] == answer.headers["content-length"]
        head = httpx.head(cluster.url + path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == answer.headers["etag"]
    assert httpx.post(cluster.url + "/").status_code == 405
    # What does not exist tells strangers nothing.
    assert httpx.get(cluster.url + "/page/none.js").status_code == 401
    assert httpx.get(cluster.url + "/page/none.js", headers=cluster.headers()).status_code == 404


def test_up_says_where_the_page_is(start_up):
    up = start_up()
    url = up.info()["http"] + "/"
    wait_for(lambda: f"Chat page    {url}" in up.log(), "the address of the page")
    assert httpx.get(url).headers["content-type"].startswith("text/html")
    assert up.key() not in up.log()


def test_the_policy_holds(chat, page):
    """And a page that violated it would fail its test."""
    chat()
    page.js("new Image().src = 'http://127.0.0.1:1/pixel.png'")
    page.js("const s = document.createElement('style'); s.append('body{}'); document.head.append(s)")
    assert page.js("try { document.body.innerHTML = 'x' } catch (e) { return e.name }") == "TypeError"
    page.wait(lambda: page.js("return document.styleSheets.length") == 1, "the page's own style alone")
    complaints = page.console()
    assert len([c for c in complaints if "Content Security Policy" in c or "TrustedHTML" in c]) >= 3, complaints


def test_the_key_is_asked_for_once_and_stays_in_the_tab(page, cluster):
    page.allowed.append("401 (Unauthorized)")
    page.open(cluster.url)
    page.give_key("wrong")
    page.wait(lambda: "invalid API key" in page.texts("#key-error"), "the complaint")
    page.give_key(KEY)
    page.wait_models()
    assert page.ask("What is Fathom?") == ABOUT_ANSWER
    stored = page.js("return [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert [KEY in s for s in stored] == [False, True]
    page.reload()
    page.wait_models()
    assert page.ask("What is Fathom?") == ABOUT_ANSWER


def test_a_key_in_the_address_is_taken_and_removed(page, cluster):
    page.open(cluster.url + "/page/icon.svg#")  # no document of the page is loaded yet
    page.driver.get(f"{cluster.url}/#key={KEY}")
    page.wait_models()
    assert page.driver.current_url == f"{cluster.url}/"
    assert not page.one("#key-dialog").is_displayed()


def test_without_keys_none_is_asked_for(page, tmp_path):
    with Cluster(tmp_path, master_extra=("--open",)) as cluster:
        page.open(cluster.url)
        assert page.ask("What is Fathom?") == ABOUT_ANSWER
        assert not page.one("#key-dialog").is_displayed()
        stats = page.texts(".stats")[-1]
        assert "12 tokens" in stats and "tokens/s" in stats and "first after" in stats and "prompt" in stats
        # Tokens after the first ask of the same words come from the cache of prefixes; the count is the server's.
        page.set(max_tokens=3, temperature=0)
        page.ask("What is a KV cache?")
        assert "3 tokens" in page.texts(".stats")[-1] and "token limit" in page.texts(".stats")[-1]
        page.set(temperature=-1, max_tokens=3)  # out of range: left out
        page.set(temperature=101, max_tokens=3)
        page.set(top_p=0, temperature="")
        page.allowed.append("400 (Bad Request)")
        page.ask("And now?")
        assert "top_p" in page.wait_for(".error").text


def test_stop_cancels_on_the_server(page, cluster):
    page.driver.get(f"{cluster.url}/page/icon.svg")
    page.driver.get(f"{cluster.url}/#key={KEY}")
    page.wait_models()
    page.js("localStorage.clear()")
    page.set(temperature=100, seed=1)  # noise that goes on until the context is full
    page.say("Tell me a story.")
    page.wait(lambda: "".join(page.texts(".answer .text")), "the first words")
    page.press(ESCAPE)
    page.answer()
    assert "stopped by you" in page.texts(".stats")[-1]
    wait_for(lambda: '"http.response.status_code":499' in cluster.master.log(), "the cancelled request in the log")
    page.set(temperature=0)
    page.button("Regenerate").click()
    page.answer()
    assert len(page.all(".answer")) == 1 and "stopped" not in page.texts(".stats")[-1]


# ---- against the scripted server ----


def test_settings_reach_the_request_and_are_remembered(chat, page, mock):
    chat(*[[stream({"content": "ok"})]] * 3)
    page.ask("hello")
    plain = {"model", "messages", "stream", "stream_options"}
    assert set(mock.requests[0]) == plain and mock.requests[0]["stream_options"] == {"include_usage": True}
    numbers = {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.05,
        "max_tokens": 99,
        "seed": 7,
        "presence_penalty": -0.5,
        "frequency_penalty": 1,
        "repetition_penalty": 1.1,
    }
    tools = [{"type": "function", "function": {"name": "f"}}]
    page.set(system="Be brief.", stop="END\nSTOP", tools=json.dumps(tools), **numbers)
    page.one("#model").send_keys("other")
    page.reload()
    page.ask("hello again")
    sent = mock.requests[1]
    assert {k: sent[k] for k in numbers} == numbers
    assert sent["stop"] == ["END", "STOP"] and sent["tools"] == tools and sent["model"] == "other"
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello again"}]
    page.set(tools="[{", temperature="")
    page.one("#settings-open").click()
    assert page.texts("#tools-error")[0].startswith("Not used")
    page.one("#settings-reset").click()
    page.one("#settings-close").click()
    page.ask("once more")
    assert set(mock.requests[2]) == plain


def test_reasoning_is_shown_apart_and_folded(chat, page, mock):
    go_on = threading.Event()
    said = [chunk({"reasoning_content": "First I "}), chunk({"reasoning_content": "add."}), go_on]
    chat([*said, stream({"content": "It is 3."})], [stream({"content": "ok"})])
    page.say("1 + 2?")
    page.wait(lambda: page.texts(".thought-text") == ["First I add."], "the reasoning while it comes")
    assert page.one(".thought summary").text == "Thinking…" and not page.one(".thought-text").is_displayed()
    go_on.set()
    assert page.answer() == "It is 3."
    assert page.one(".thought summary").text.startswith("Thought")
    page.one(".thought summary").click()
    assert page.one(".thought-text").is_displayed()
    page.ask("sure?")
    assert mock.requests[1]["messages"][1] == {"role": "assistant", "content": "It is 3."}


def test_tool_calls_are_shown_and_answered(chat, page, mock):
    pieces = [
        call(0, "", id="c0", type="function", name="price"),
        call(0, '{"item": '),
        call(0, '"saddle"}'),
        call(1, '{"of": 2}', id="c1", type="function", name="stock"),
    ]
    chat([stream(*pieces, finish="tool_calls")], [stream({"content": "It costs 40."})])
    page.say("How much is the saddle?")
    page.answer()
    assert page.texts(".call h3") == ["price", "stock"]
    assert page.texts(".call pre") == ['{\n  "item": "saddle"\n}', '{\n  "of": 2\n}']
    boxes = page.all(".result")
    boxes[0].send_keys("40")
    boxes[1].send_keys("none <b>left</b>")
    page.button("Send results").click()
    assert page.answer() == "It costs 40."
    calls = [
        {"id": "c0", "type": "function", "function": {"name": "price", "arguments": '{"item": "saddle"}'}},
        {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": '{"of": 2}'}},
    ]
    assert mock.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c0", "content": "40"},
        {"role": "tool", "tool_call_id": "c1", "content": "none <b>left</b>"},
    ]
    assert page.all(".result") == []


def test_errors_say_what_the_server_says(chat, page, mock):
    page.allowed += [
        "429 (Too Many Requests)",
        "400 (Bad Request)",
        "502 (Bad Gateway)",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
    ]
    broken = (
        b'data: {"error":{"message":"the worker is gone","type":"server_error","param":null,"code":"worker_lost"}}\n\n'
    )
    chat(
        error(429, "the queue is full", {**JSON, "Retry-After": "30"}, code="rate_limit_exceeded"),
        [chunk({"content": "Half an ans"}), broken],
        error(400, "'top_p': must be above 0", param="top_p"),
        (502, {"Content-Type": "text/html"}, b"<h1>Bad gateway</h1>"),
        [chunk({"content": "cut"})],
        [stream({"content": "at last"})],
    )
    page.say("hello")
    box = page.wait_for(".error")
    assert "Error 429" in box.text and "the queue is full" in box.text and "rate_limit_exceeded" in box.text
    assert box.get_attribute("role") == "alert"
    page.wait(lambda: "in 29 s" in box.text, "the count down")
    for words in (
        ["the worker is gone", "worker_lost"],
        ["Error 400", "'top_p': must be above 0", "parameter: top_p"],
        ["Error 502"],
        ["ended before it was complete"],
    ):
        page.one(".error button").click()
        page.answer()
        assert all(w in page.wait_for(".error").text for w in words), page.one(".error").text
        assert len(page.all(".answer")) == 1
    page.one(".error button").click()
    assert page.answer() == "at last"
    assert all(r["messages"] == [{"role": "user", "content": "hello"}] for r in mock.requests)


def test_a_server_that_is_away_is_said(chat, page, cluster):
    page.allowed.append("ERR_CONNECTION_REFUSED")
    with mock_server(cluster.url) as server:
        page.open(server.url).wait_models()
    page.say("anyone?")
    page.answer()
    assert "cannot be reached" in page.wait_for(".error").text


def test_edit_regenerate_and_new_chat(chat, page, mock):
    chat(*[[stream({"content": f"answer {i}"})] for i in range(5)])
    assert page.ask("first") == "answer 0"
    assert page.ask("second") == "answer 1"
    page.button("Regenerate").click()
    page.wait(lambda: page.texts(".answer .text")[-1] == "answer 2", "another answer")
    assert [m["content"] for m in mock.requests[2]["messages"]] == ["first", "answer 0", "second"]
    page.button("Edit").click()
    page.one("#prompt").send_keys(" thought", ENTER)
    page.wait(lambda: page.texts(".answer .text")[-1:] == ["answer 3"], "the answer to the edited message")
    assert page.texts(".bubble") == ["first", "second thought"]
    assert [m["content"] for m in mock.requests[3]["messages"]] == ["first", "answer 0", "second thought"]
    page.one("#new-chat").click()
    assert page.all(".message") == [] and page.one(".welcome").is_displayed()
    assert page.ask("anew") == "answer 4"
    assert len(mock.requests[4]["messages"]) == 1


def test_the_keyboard_is_enough(chat, page, mock):
    chat([stream({"content": "one"})], [threading.Event()], [stream({"content": "three"})])
    assert page.driver.switch_to.active_element.get_attribute("id") == "prompt"
    page.one("#prompt").send_keys("two", Keys.SHIFT, ENTER, Keys.NULL, "lines", ENTER)
    assert page.answer() == "one"
    assert mock.requests[0]["messages"][0]["content"] == "two\nlines"
    page.press("wait", ENTER)
    page.wait(lambda: len(mock.requests) == 2, "the request")
    assert page.one("#send").get_attribute("aria-label") == "Stop"
    page.press(ESCAPE)
    page.answer()
    page.press(UP)
    assert page.one("#prompt").get_attribute("value") == "wait" and page.one("#editing").is_displayed()
    page.press(ESCAPE)
    assert page.one("#prompt").get_attribute("value") == "" and not page.one("#editing").is_displayed()
    page.press(UP, "ed", ENTER)
    page.wait(lambda: page.texts(".bubble")[-1] == "waited", "the edited message")
    assert page.answer() == "three"
    # Around the page from its top: every stop shows where it is.
    page.js("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    stops = []
    for _ in range(12):
        page.press(TAB)
        here = page.driver.switch_to.active_element
        stops.append(here.get_attribute("id") or here.text or here.tag_name)
        ring = page.js(
            "const s = getComputedStyle(arguments[0]), b = getComputedStyle(arguments[0].parentElement);"
            "return s.outlineStyle !== 'none' || b.boxShadow !== 'none'",
            here,
        )
        assert ring, stops
        if stops[-1] == "prompt":
            break
    for stop in ("new-chat", "theme", "settings-open", "Edit", "Regenerate", "prompt"):
        assert stop in stops, stops
    page.js("document.getElementById('settings-open').focus()")
    page.press(ENTER)
    assert page.one("#settings").is_displayed()
    page.press(ESCAPE)
    assert not page.one("#settings").is_displayed()
    assert page.driver.switch_to.active_element.get_attribute("id") == "settings-open"
    assert page.one("#status").get_attribute("role") == "status" and page.texts("#status") == ["Answer complete"]
    assert page.one("#log").get_attribute("aria-live") == "polite"
