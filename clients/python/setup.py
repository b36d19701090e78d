"""What pyproject.toml cannot say: the messages of the gRPC API are generated before anything is packed."""

import runpy
from pathlib import Path

from setuptools import setup

runpy.run_path(str(Path(__file__).with_name("protos.py")))["generate"]()
setup()
