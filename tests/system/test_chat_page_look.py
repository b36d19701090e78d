"""What the chat page makes of an answer's text, and how it looks: markdown, hostile text, scrolling, phones, themes."""

import json
import threading

from browser import call, chunk, error, stream

pytest_plugins = ["chat_page_fixtures"]


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
    assert page.js("return window.longest") < 1000


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
