"""Generates the messages of the gRPC API from the project's proto/ into the package: python protos.py

Runs when the package is built, and before its tests. Needs grpcio-tools. A source distribution has them already.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
NAME = "fathom/v1/inference.proto"
OUT = HERE / "src" / "fathom_client" / "_proto"


def generate() -> None:
    if not (PROTO / NAME).exists():
        if (OUT / "inference_pb2.py").exists():
            return
        raise SystemExit(f"{PROTO / NAME} is missing: build the package from a checkout of Fathom")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTO}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
        ]
        subprocess.run([*command, NAME], check=True)
        for made in Path(folder, NAME).parent.glob("inference_pb2.py*"):
            target = OUT / made.name
            # Several test processes may do this at a time; none must see half a file.
            if not target.exists() or target.read_bytes() != made.read_bytes():
                fresh = target.with_name(f".{target.name}.{Path(folder).name}")
                fresh.write_bytes(made.read_bytes())
                fresh.replace(target)


if __name__ == "__main__":
    generate()
