"""Writes docs/configuration.md from proto/fathom/config.proto: tools/docs/configuration.py [--check]

The meaning of a field is its comment in the schema, its default what that comment says, its flag what the program's
Override sets it from. With --check nothing is written; exit code 1 says that the page is not what would be.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "proto" / "fathom" / "config.proto"
PAGE = ROOT / "docs" / "configuration.md"

# Where the flags of each program are declared, and the parts of the file that it reads.
FLAGS = {"master": ROOT / "src/master/main.cc", "worker": ROOT / "src/worker/command_line.cc"}
READERS = {
    "Master": ["master"],
    "Model": ["master"],
    "Worker": ["worker"],
    "Logging": ["master", "worker"],
    "Tls": ["master", "worker"],
}
TYPES = {"string": "text", "bool": "true or false", "int32": "number", "int64": "number", "double": "number"}

HEAD = """# Configuration

<!-- Written by tools/docs/configuration.py from proto/fathom/config.proto; change that file, then run it. -->

`fathom-master --config FILE` and `fathom-worker --config FILE` read YAML; `fathom up` needs none. Each process reads
its own part, so that one file can serve both. Unknown keys, wrong types and numbers out of range are errors that name
the line. Flags override the file; what is in neither has the default of the table. `--dump-config` prints what was
read, file and flags together.

```yaml
master:
  bind: 127.0.0.1
  keys_file: /etc/fathom/keys
  models:
    - {path: /models/tiny}
  limits: {requests: 256}
worker:
  masters: ["127.0.0.1:5000"]
  model_path: /models/tiny
logging: {level: info}
```

A keys file has one key a line, `name:sha256[:role[:tenant[:priority[:weight[:requests[:tokens]]]]]]` (the last two:
quotas a minute); `printf %s "$KEY" | sha256sum` makes the hash of a key, `fathom key --hash` prints that of the local
one. It is read when the master starts: keys that are added or withdrawn need a restart, which loses nothing where there
are two masters.

Commands that ask a server take `FATHOM_API_KEY` for `--key`; those that ask a master's operators' port also
`FATHOM_ADMIN` for `--admin`.
"""


def read_schema(text):
    """{message: (comment, [(name, type, comment)])} in the order of the file."""
    messages, comment, current = {}, [], None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("//"):
            comment.append(line[2:].strip())
        elif match := re.match(r"message (\w+) \{", line):
            current = match[1]
            messages[current] = (" ".join(comment), [])
            comment = []
        elif match := re.match(r"(?:(optional|repeated) )?([\w.]+|map<[^>]+>) (\w+) = \d+", line):
            kind = f"list of {match[2]}" if match[1] == "repeated" else match[2]
            messages[current][1].append((match[3], kind, " ".join(comment)))
            comment = []
        else:
            comment = []
    return messages


def read_flags(text):
    """{field: flag}: each field is set from the flag that stands last before it in Override."""
    declared = {v: flag for flag, v in re.findall(r'add_(?:option|flag)\(\s*"(--[\w-]+)",\s*flags\.(\w+)', text)}
    body = "\n".join(re.findall(r"^void Override\w*\(.*?^\}", text, re.DOTALL | re.MULTILINE))
    fields, flag = {}, None
    for variable, field in re.findall(r"\bflags\.(\w+)|\b(?:set|add)_(\w+)\(", body):
        if variable:
            flag = declared.get(variable)
        elif flag:
            fields[field] = flag
    return fields


def given_by(message, field, comment, flags):
    """The flags, and the environment variable that the comment names, by which a field can be given."""
    readers = READERS.get(message, [])
    ways = {}
    for program in readers:
        if field in flags[program]:
            ways.setdefault(f"`{flags[program][field]}`", []).append(program)
    out = [way if len(programs) == len(readers) else f"{way} ({programs[0]})" for way, programs in ways.items()]
    return ", ".join(out + [f"`{name}`" for name in re.findall(r"environment's (\w+)", comment)])


def type_of(kind):
    if kind.startswith("map<"):
        return "names with texts"
    if kind.startswith("list of "):
        return f"list of {TYPES.get(kind[8:], kind[8:])}s"
    return TYPES.get(kind, "a part of its own")


def default_of(comment, kind):
    """(default, rest of the comment)."""
    if match := re.search(r"\bDefault ([^.;]*(?:\.\d[^.;]*)*)[.;]?\s*", comment):
        return match[1].strip(), (comment[: match.start()] + comment[match.end() :]).strip()
    if match := re.search(r"; default ([^.;]*)\.?", comment):
        return match[1].strip(), comment[: match.start()] + "." + comment[match.end() :]
    return {"bool": "false", "int32": "0", "int64": "0", "double": "0"}.get(kind, "none"), comment


def cell(text):
    return text.replace("|", "\\|").strip()


def render(schema, flags):
    out = [HEAD]
    for message, (comment, fields) in schema.items():
        if message == "Config":
            continue
        path, *others = paths_of(schema, message)
        also = "".join(f" The same goes for `{other}`." for other in others)
        out.append(f"## {path}\n\n{comment}{also}\n")
        out.append("| key | type | default | meaning | flag or variable |\n|---|---|---|---|---|")
        for name, kind, said in fields:
            part = kind.removeprefix("list of ")
            if part in schema:
                target = next(paths_of(schema, part))
                link = f"[{target}](#{target.replace('.', '')})"
                what = "a part" if part == kind else "list of parts"
                out.append(f"| `{name}` | {what} | | {cell(said)} See {link}. | |")
                continue
            default, meaning = default_of(said, kind)
            given = given_by(message, name, said, flags)
            out.append(f"| `{name}` | {type_of(kind)} | {cell(default)} | {cell(meaning)} | {given} |")
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def paths_of(schema, message, prefix=""):
    """Where a message stands in the file: "master.limits"."""
    for name, (_, fields) in schema.items():
        for field, kind, _ in fields:
            if kind.removeprefix("list of ") == message:
                above = "" if name == "Config" else f"{next(paths_of(schema, name))}."
                yield above + field


def page():
    flags = {program: read_flags(source.read_text()) for program, source in FLAGS.items()}
    return render(read_schema(SCHEMA.read_text()), flags)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not current")
    if parser.parse_args().check:
        if PAGE.read_text() == page():
            return 0
        print("docs/configuration.md is not current: run tools/docs/configuration.py", file=sys.stderr)
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
