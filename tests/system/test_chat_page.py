"""The chat page in a headless Chromium: against real processes, and against a scripted server."""

import json
import threading

import httpx
import pytest
from browser import ENTER, ESCAPE, TAB, UP, Page, chunk, mock_server, start_chromium, stream
from harness import KEY, Cluster, wait_for
from selenium.webdriver.common.keys import Keys

ABOUT_ANSWER = "Fathom is a distributed inference server for large language models."
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def chromium():
    driver = start_chromium()
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium):
    """Fails a test whose page complained on the console, as it does when the policy of its headers is violated."""
    made = Page(chromium)
    yield made
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert made.console() == []


@pytest.fixture(scope="module")
def mock(cluster):
    with mock_server(cluster.url) as server:
        yield server


@pytest.fixture
def chat(page, mock):
    """chat(*answers) opens the page before the scripted server."""

    def start(*answers):
        mock.script, mock.requests = list(answers), []
        mock.gone.clear()
        return page.open(mock.url).wait_models()

    return start


def error(status, message, headers=JSON, **more):
    return (
        status,
        headers,
        json.dumps({"error": {"message": message, "type": "t", "param": None, "code": None} | more}).encode(),
    )


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
    page.set(temperature=100)  # noise hardly ever ends by itself
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


def call(index, arguments, **first):
    function = {"arguments": arguments} | ({"name": first.pop("name")} if "name" in first else {})
    return {"tool_calls": [{"index": index, "function": function, **first}]}


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


def test_characters_survive_any_border(chat, page):
    text = "深い海 — żółw 🐢!"
    answer = stream({"content": text[:3]}, {"content": text[3:]}).replace(b"\n\n", b"\r\n\r\n")
    pieces = [piece for i in range(0, len(answer), 7) for piece in (answer[i : i + 7], 0.0005)]
    chat([b": ping\n\n", *pieces])
    assert page.ask("hi") == text


def test_the_parser_of_events_takes_any_border(chat, page):
    chat()
    text = ": ping\n\ndata: a\r\ndata:b\r\n\r\nid: 1\revent: x\rdata:  c\r\rdata\n\ndata: cut off"
    events = page.driver.execute_async_script(
        """const [text, done] = arguments;
        import("/page/sse.js").then(({ EventParser }) => {
          const results = [];
          for (let size = 1; size <= text.length; size++) {
            const parser = new EventParser();
            const got = [];
            for (let i = 0; i < text.length; i += size) got.push(...parser.push(text.slice(i, i + size)));
            results.push(JSON.stringify(got));
          }
          done([...new Set(results)]);
        });""",
        text,
    )
    assert events == ['["a\\nb"," c"]']


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


ATTACKS = [
    "<img src=x onerror=pwned()>",
    "<script>pwned()</script>",
    "</p></div><iframe src=javascript:pwned()></iframe>",
    "[click](javascript:pwned()) [data](data:text/html,<script>pwned()</script>)",
    "[tab](java\tscript:pwned()) [file](file:///etc/passwd)",
    "![image](https://evil.example/pixel.png)",
    "`<svg onload=pwned()>`",
    "```html\n<script>pwned()</script>\n```",
    "| <b onclick=pwned()>a</b> |\n|---|\n| <style>*{display:none}</style> |",
    "# <a href=javascript:pwned()>h</a>",
]


def test_what_a_model_writes_never_runs(chat, page):
    attack = "\n\n".join(ATTACKS)
    arguments = json.dumps({"<img src=x onerror=pwned()>": "<script>pwned()</script>"})
    chat(
        [stream({"reasoning_content": attack}, {"content": attack}, call(0, arguments, id="<b>", name="<img src=x>"))],
        error(400, "<img src=x onerror=pwned()>", code="<script>pwned()</script>"),
    )
    page.allowed.append("400 (Bad Request)")
    page.js("window.pwned = () => { window.hit = true }")
    page.say(attack.replace("\n", " ").replace("\t", " "))
    text = page.answer()
    page.say("again")
    page.wait_for(".error")
    bad = "#log :is(img, script, iframe, svg, style, b, [onclick], [onerror], a[href^='javascript' i], a[href^='file'])"
    assert page.all(bad) == []
    assert {a.get_attribute("rel") for a in page.all("#log a")} <= {"noopener noreferrer"}
    for shown in (
        "<img src=x onerror=pwned()>",
        "<iframe src=javascript:pwned()></iframe>",
        "[click](javascript:pwned())",
    ):
        assert shown in text
    assert not page.js("return window.hit")


MARKDOWN = """# One
Text with **bold**, *it*, ***both***, `a * b`, snake_case_name, 2 * 3 * 4, ~~gone~~, \\*plain\\*.
A [link](https://example.org/a_(b)?c=1&d=2 "title"), https://example.org/x_y_z. and `` `tick` ``

3. three
4. four

   more of four
   - inner **x**
     1. deep

> quoted
> - item

```c++
int main() { return 0; }  // **not bold**

```
| a | b |
|:--|--:|
| 1 | `2` |

---
~~~
never closed <b>"""


def test_markdown_is_drawn_alike_however_it_streams(chat, page):
    chat()
    shapes = page.driver.execute_async_script(
        """const [text, done] = arguments;
        import("/page/markdown.js").then(({ MarkdownView }) => {
          const shapes = [1, 2, 3, 5, 17, 100, 1e9].map((size) => {
            const root = document.createElement("div");
            const view = new MarkdownView(root);
            for (let i = 0; i < text.length; i += size) view.append(text.slice(i, i + size));
            return root.innerHTML;
          });
          done(shapes);
        });""",
        MARKDOWN,
    )
    assert len(set(shapes)) == 1
    html = shapes[0]
    for part in (
        "<h3>One</h3>",
        "<strong>bold</strong>, <em>it</em>, <strong><em>both</em></strong>, <code>a * b</code>, snake_case_name, ",
        ", 2 * 3 * 4, <del>gone</del>, *plain*.",
        'href="https://example.org/a_(b)?c=1&amp;d=2"',
        ">https://example.org/x_y_z</a>. and <code>`tick`</code>",
        '<ol start="3"><li>three</li><li><p>four</p><p>more of four</p><ul>',
        "<li>inner <strong>x</strong><ol><li>deep</li></ol></li>",
        "<blockquote><p>quoted</p><ul><li>item</li></ul></blockquote>",
        "<code>int main() { return 0; }  // **not bold**\n</code>",
        '<td class="to-right"><code>2</code></td>',
        "<hr>",
        "<code>never closed &lt;b&gt;</code>",
    ):
        assert part in html, part


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


def test_scrolls_along_only_at_the_end(chat, page):
    more, end = threading.Event(), threading.Event()
    lines = [chunk({"content": f"line {i}\n\n"}) for i in range(60)]
    chat([*lines, more, *lines, end, stream({"content": "end"})])
    page.say("a lot")
    gap = "const s = document.getElementById('scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight"
    page.wait(lambda: "line 59" in page.one(".answer .text").text, "the first lines")
    page.wait(lambda: page.js(gap) < 2, "the end in sight")
    page.js("document.getElementById('scroll').scrollTop = 300")
    page.wait_for("#latest")
    more.set()
    page.wait(lambda: len(page.all(".answer .text > p")) == 120, "the other lines")
    assert page.js("return document.getElementById('scroll').scrollTop") == 300
    page.one("#latest").click()
    end.set()
    page.answer()
    assert page.js(gap) < 2


def test_long_answers_stay_smooth(chat, page):
    code = [chunk({"content": f"x{i} = {i}\n"}) for i in range(4000)]
    chat([chunk({"content": "```python\n"}), *code, stream({"content": "```\nDone."})])
    page.js(
        """window.longest = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
        }).observe({ type: "longtask" });"""
    )
    text = page.ask("a long program")
    assert text.endswith("x3999 = 3999Done.") and text.count("\n") == 3999
    # Generous: the machine may be busy. Drawing all of it anew for every token takes seconds.
    assert page.js("return window.longest") < 500


def test_a_phone_shows_it_all_without_scrolling_sideways(chat, page):
    page.emulate("setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2, mobile=True)
    wide = f"{'unbreakable' * 20}\n\n```\n{'code ' * 60}\n```\n\n| {'a' * 40} | {'b' * 40} |\n|---|---|\n| c | d |"
    chat([stream({"content": wide}, call(0, json.dumps({"x": "y" * 200}), id="c", name="n" * 80))])
    page.say("w" * 300)
    page.answer()
    assert page.js("return document.documentElement.scrollWidth") == 360
    assert page.js("const s = document.getElementById('scroll'); return s.scrollWidth - s.clientWidth") == 0
    send = page.one("#send").rect
    assert send["x"] + send["width"] <= 360 and send["y"] + send["height"] <= 640
    small = [b.get_attribute("id") for b in page.all(".bar button, #send") if min(b.size.values()) < 38]
    assert small == []
    page.one("#settings-open").click()
    assert page.js("const f = document.querySelector('.fields'); return f.scrollWidth - f.clientWidth") == 0
    assert page.one("#settings-close").rect["x"] < 360


def luminance(page):
    parts = page.js("return getComputedStyle(document.body).backgroundColor")
    return sum(int(p) for p in parts.strip("rgb()").split(","))


def test_dark_and_light(chat, page):
    chat()
    page.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert luminance(page) < 150
    theme = page.one("#theme")
    theme.click()
    assert theme.get_attribute("aria-label") == "Theme: light" and luminance(page) > 600
    page.reload()
    assert luminance(page) > 600
    page.one("#theme").click()
    page.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    assert luminance(page) < 150
    page.one("#theme").click()
    assert luminance(page) > 600


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
