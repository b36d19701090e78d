"""A headless Chromium on the chat page, and a scripted server in place of the API."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 15
ESCAPE, ENTER, TAB, UP = Keys.ESCAPE, Keys.ENTER, Keys.TAB, Keys.UP


def start_chromium():
    """Debian's chromium and its driver; nothing is downloaded."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # Containers: no namespaces for the sandbox of root, a small /dev/shm.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1200,860"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


class Page:
    """The chat page in a tab without a past. Checks at its end that the console stayed clean."""

    def __init__(self, driver):
        self.driver = driver
        # Parts of console messages that a test expects; the blank document that `open` begins with has no icon.
        self.allowed = ["favicon.ico"]

    def open(self, url):
        """A fresh visit: neither key nor settings nor emulation of an earlier one."""
        self.driver.get(f"{url}/page/icon.svg")  # a document without scripts or icon of its own
        self.js("localStorage.clear(); sessionStorage.clear()")
        self.driver.get_log("browser")
        self.driver.get(f"{url}/")
        return self

    def reload(self):
        self.driver.refresh()

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def emulate(self, command, **parameters):
        self.driver.execute_cdp_cmd(f"Emulation.{command}", parameters)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition, what):
        return WebDriverWait(self.driver, WAIT_S, 0.02).until(lambda _: condition(), what)

    def wait_for(self, selector):
        """The last element that matches, once it is visible."""
        self.wait(lambda: any(e.is_displayed() for e in self.all(selector)), selector)
        return self.all(selector)[-1]

    def texts(self, selector):
        """What the page holds, seen or not."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def button(self, label):
        found = [b for b in self.all("button") if b.is_displayed() and b.text == label]
        assert found, f"no button {label!r} among {[b.text for b in self.all('button')]}"
        return found[-1]

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def wait_models(self):
        self.wait(lambda: self.js("return document.getElementById('model').value"), "models")
        return self

    def ask(self, text):
        """Sends and waits for the whole answer; returns its text."""
        self.say(text)
        return self.answer()

    def say(self, text):
        self.wait_models()
        self.one("#prompt").send_keys(text, ENTER)

    def answer(self):
        self.wait(lambda: self.all(".answer:last-child[aria-busy='false']"), "the whole answer")
        return "".join(self.texts(".answer:last-child .text"))

    def set(self, **settings):
        """Fills in the settings, by the form."""
        self.one("#settings-open").click()
        for name, value in settings.items():
            box = self.one(f"#settings [name={name}]")
            box.clear()
            box.send_keys(str(value))
        self.one("#settings-close").click()

    def give_key(self, key):
        self.wait_for("#key").send_keys(key, ENTER)

    def console(self):
        """Messages of the console but for those that are expected."""
        lines = [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]
        return [line for line in lines if not any(part in line for part in self.allowed)]


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": choices}
    return f"data: {json.dumps(body | more, ensure_ascii=False)}\n\n".encode()


JSON = {"Content-Type": "application/json"}
DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 41,
    "completion_tokens": 7,
    "total_tokens": 48,
    "prompt_tokens_details": {"cached_tokens": 16},
}


def stream(*deltas, finish="stop"):
    """The bytes of a whole answer."""
    return b"".join([*map(chunk, deltas), chunk({}, finish), chunk(usage=USAGE), DONE])


def call(index, arguments, **first):
    function = {"arguments": arguments} | ({"name": first.pop("name")} if "name" in first else {})
    return {"tool_calls": [{"index": index, "function": function, **first}]}


def error(status, message, headers=JSON, **more):
    return (
        status,
        headers,
        json.dumps({"error": {"message": message, "type": "t", "param": None, "code": None} | more}).encode(),
    )


class MockServer:
    """Serves the real page of `page_url`, and answers the API by a script.

    `script` holds one answer a chat request: a list of pieces that are written one after another (bytes; an event to
    wait for; seconds to pause), or (status, headers, body). `requests` are the bodies that came."""

    def __init__(self, page_url):
        self.script = []
        self.requests = []
        self.gone = threading.Event()  # a client left before its answer's end
        mock = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/v1/models":
                    models = [{"id": name, "object": "model", "max_model_len": 4096} for name in ("mock", "other")]
                    return self.reply(200, {"Content-Type": "application/json"}, json.dumps({"data": models}).encode())
                answer = httpx.get(page_url + self.path)
                kept = ("content-type", "content-security-policy", "referrer-policy", "x-content-type-options")
                self.reply(answer.status_code, {k: v for k, v in answer.headers.items() if k in kept}, answer.content)

            def do_POST(self):
                mock.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = mock.script.pop(0)
                if isinstance(answer, tuple):
                    return self.reply(*answer)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for piece in answer:
                        if isinstance(piece, float):
                            time.sleep(piece)
                        elif isinstance(piece, bytes):
                            self.wfile.write(piece)
                        else:
                            piece.wait(WAIT_S)
                except OSError:
                    mock.gone.set()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def mock_server(page_url):
    server = MockServer(page_url)
    try:
        yield server
    finally:
        server.close()
