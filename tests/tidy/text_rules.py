"""Rules about the text of single files: length, owners of TODOs, headers, coroutines, what must not be named."""

import re

from tree import line_of

CODE = (".h", ".cc", ".cu", ".cuh", ".rs", ".py", ".sh", ".proto", ".cmake", "CMakeLists.txt")
PROSE = (".md", ".yaml", ".yml", ".toml", ".json", ".txt", ".jinja")
LINES_MAX = 500

# These checks must spell what they forbid.
EXEMPT = ("models/", "tests/tidy/")

WORKPLACE = re.compile(r"(?<![\w.~}])/work/|/opt/golden|\.\./shared\b|\bissues? #?[0-9]+\b")
REGISTRY = re.compile(
    r"\b(?:pypi|files\.pythonhosted|crates|static\.rust-lang|deb\.debian|registry\.npmjs|proxy\.golang)\.(?:org|io)\b"
)
OWNERLESS = re.compile(r"\b(?:TODO|FIXME|XXX)\b(?!\([a-z][\w.-]*\))")

# g++ 12 destroys the captures of such lambdas, and temporaries that live across a suspension, wrongly.
CAPTURING_COROUTINE = re.compile(
    r"\[[^\[\]]*[&=\w][^\[\]]*\]\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*(?:mutable\s*)?(?:noexcept\s*)?"
    r"->\s*[\w:]*awaitable\s*<"
)
AWAITED = re.compile(r"\bco_await\b([^;]*);")
AWAITED_TEMPORARY = re.compile(
    r"\[[^\[\]]*\]\s*[({]|\w\s*\{|\bstd::(?:string|vector|make_\w+|to_string|function)\s*[<(]|\bStr(?:Cat|Format|Join)\("
)


def check_length(tree):
    problems = []
    for path in tree.paths:
        if path.endswith(CODE) and not path.startswith("models/"):
            lines = tree.read(path).count("\n")
            if lines > LINES_MAX:
                problems.append(f"{path}:{LINES_MAX}: {lines} lines; no file is longer than {LINES_MAX}: split it")
    return problems


def _grep(tree, pattern, suffixes, say):
    problems = []
    for path in tree.paths:
        if path.endswith(suffixes) and not path.startswith(EXEMPT):
            text = tree.read(path)
            problems += [
                f"{path}:{line_of(text, m.start())}: {say} ({m.group().strip()})" for m in pattern.finditer(text)
            ]
    return problems


def check_owners(tree):
    return _grep(tree, OWNERLESS, CODE, "open work names its owner: TODO(name)")


def check_names(tree):
    problems = _grep(tree, WORKPLACE, CODE + PROSE + (".gitignore", "Dockerfile"), "names the place it was written at")
    return problems + _grep(tree, REGISTRY, CODE + PROSE, "names a package registry's host; use the client's setting")


def check_headers(tree):
    problems = []
    for path in tree.below(("src/", "tests/fuzz/"), ".h", ".cuh"):
        lines = [line for line in tree.read(path).splitlines() if line.strip()]
        if "#pragma once" not in lines[:1]:
            problems.append(f"{path}:1: a header begins with #pragma once")
        if len(lines) < 2 or not lines[1].startswith("//"):
            problems.append(f"{path}:2: after #pragma once a header says in a comment what it is for")
    return problems


def check_coroutines(tree):
    problems = []
    for path in tree.below("src/", ".h", ".cc"):
        text = _blank_comments(tree.read(path))
        for match in CAPTURING_COROUTINE.finditer(text):
            problems.append(
                f"{path}:{line_of(text, match.start())}: a lambda coroutine captures; pass arguments instead"
            )
        for match in AWAITED.finditer(text):
            if AWAITED_TEMPORARY.search(match.group(1)):
                where = f"{path}:{line_of(text, match.start())}"
                problems.append(f"{where}: bind temporaries of a co_await to named locals first")
    return problems


def _blank_comments(text):
    return re.sub(r"//[^\n]*", lambda m: " " * len(m.group()), text)


def check_protos(tree):
    """Every message, enum, service, rpc, field and enum value carries a comment on the line above or beside it."""
    element = re.compile(r"^\s*(?:message|enum|service|rpc)\b|^\s*[\w.<>, ]+\s\w+\s*=\s*-?\d+\s*(?:\[.*\])?;")
    problems = []
    for path in tree.below("proto/", ".proto"):
        lines = tree.read(path).splitlines()
        for number, line in enumerate(lines):
            if element.match(line) and not line.lstrip().startswith(("reserved", "option", "syntax")):
                above = lines[number - 1].strip() if number else ""
                if not above.startswith("//") and "//" not in line:
                    problems.append(f"{path}:{number + 1}: no comment says what it is ({line.strip()})")
    return problems
