"""Include edges between the folders of src/, against the table in include_edges.txt."""

import re
from pathlib import PurePosixPath

from tree import line_of

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]', re.MULTILINE)
SOURCES = (".h", ".cc", ".cu", ".cuh")
# nvcc chokes on these and a kernel needs none of them.
HEAVY_FOR_DEVICE = {"absl", "boost", "google", "grpc", "grpcpp", "prometheus", "yaml-cpp"}


def read_table(text):
    """{row: set of rows it may include}. Raises ValueError for a malformed line or an unknown folder."""
    table = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        row, colon, allowed = line.partition(":")
        if not colon or row.strip() in table:
            raise ValueError(f"line {number}: expected `folder: folders`, each folder once")
        table[row.strip()] = set(allowed.split())
    for row, allowed in table.items():
        for other in allowed - set(table) - {"proto"}:
            raise ValueError(f"{row} may include {other}, which has no row")
    return table


def find_cycle(table):
    """A list of rows that include each other in a ring, or []."""
    state, stack = {}, []

    def visit(row):
        state[row] = "open"
        stack.append(row)
        for other in sorted(table.get(row, ())):
            if state.get(other) == "open":
                return [*stack[stack.index(other) :], other]
            if other not in state and (cycle := visit(other)):
                return cycle
        state[row] = "done"
        stack.pop()
        return []

    for row in table:
        if row not in state and (cycle := visit(row)):
            return cycle
    return []


def row_of(path, table):
    """The longest row that covers `path` (relative to src/), or None."""
    best = None
    for row in table:
        covers = path.startswith(row + "/") or PurePosixPath(path).with_suffix("").as_posix() == row
        if covers and (best is None or len(row) > len(best)):
            best = row
    return best


def is_test(path):
    return path.endswith(("_test.cc", "_test.cu", "_testing.h", "_testing.cc")) or "/testing/" in path


def check(tree):
    problems = []
    table_path = "tests/tidy/include_edges.txt"
    try:
        table = read_table(tree.read(table_path))
    except ValueError as error:
        return [f"{table_path}: {error}"]
    if cycle := find_cycle(table):
        problems.append(f"{table_path}: cycle {' -> '.join(cycle)}")
    tops = {row.split("/")[0] for row in table}
    for path in tree.below("src/", *SOURCES):
        inner = path[len("src/") :]
        row = row_of(inner, table)
        if row is None:
            problems.append(f"{path}:1: its folder has no row in {table_path}")
            continue
        text = tree.read(path)
        for match in INCLUDE.finditer(text):
            where = f"{path}:{line_of(text, match.start())}"
            problems += _check_include(tree, table, tops, inner, row, match, where)
    return problems


def _check_include(tree, table, tops, inner, row, match, where):
    bracket, target = match.groups()
    top = target.split("/")[0]
    if top in ("fathom", "inference") and target.endswith(".pb.h"):
        other = "proto"
    elif top in tops and "/" in target:
        if bracket == "<":
            return [f'{where}: include our own headers with quotes: "{target}"']
        if f"src/{target}" not in tree.paths and f"src/{target}.in" not in tree.paths:
            return [f"{where}: {target} is not under src/"]
        other = row_of(target, table)
    elif bracket == '"' and "/" not in target:
        return [f"{where}: name headers from the root of src/: {target}"]
    else:
        if inner.endswith((".cu", ".cuh")) and top in HEAVY_FOR_DEVICE:
            return [f"{where}: device code includes only CUDA, std and plain headers of ours, not {target}"]
        return []
    if is_test(target) and not is_test(inner):
        return [f"{where}: {target} is for tests only"]
    if is_test(inner) or other == row or other in table[row]:
        return []
    return [f"{where}: {row} may not include {other} ({target})"]
