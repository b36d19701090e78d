"""The documentation says what is: its examples run, its generated page is current, its links lead somewhere."""

import os
import re
import subprocess
import sys

import pytest
from harness import KEY, ROOT, clean_environment

API = ROOT / "docs" / "api.md"
BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Asks the local cluster of `fathom up` for its key; here the cluster of the tests has one.
SETUP = "export FATHOM_KEY=$(fathom key)\n"


def read_examples(text):
    """[(line, language, code, what it prints or None)]: a text block tells the output of the block before it."""
    examples = []
    for match in BLOCK.finditer(text):
        language, code = match.groups()
        if language == "text":
            examples[-1][3] = code
        elif code != SETUP:
            examples.append([text.count("\n", 0, match.start()) + 1, language, code, None])
    return examples


@pytest.mark.parametrize(
    ("language", "code", "output"), [pytest.param(*e[1:], id=f"line {e[0]}") for e in read_examples(API.read_text())]
)
def test_examples_of_the_api_run(cluster, language, code, output):
    code = code.replace("http://127.0.0.1:8000", cluster.url).replace("127.0.0.1:8001", cluster.master.grpc_address)
    program = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    environment = clean_environment() | {"FATHOM_KEY": KEY, "PATH": os.environ["PATH"]}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert output is None or done.stdout == output


def test_examples_are_found():
    assert read_examples("```sh\na\n```\n\n```python\nb\n```\n\n```text\nc\n```\n") == [
        [1, "sh", "a\n", None],
        [5, "python", "b\n", "c\n"],
    ]
    assert len(read_examples(API.read_text())) >= 9


def test_the_page_of_the_configuration_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "docs" / "configuration.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target
