"""The files of the project, as the tidy checks see them."""

import os
import subprocess
from pathlib import Path

SKIPPED_FOLDERS = {".git", ".venv", ".cache", "build", "target", "__pycache__"}


class Tree:
    """Read-only view of a source tree: `root` and the sorted relative paths of its files."""

    def __init__(self, root):
        self.root = Path(root)
        self.paths = sorted(self._git_files() or self._walked_files())

    def read(self, path):
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def below(self, folder, *suffixes):
        return [p for p in self.paths if p.startswith(folder) and p.endswith(suffixes)]

    def _git_files(self):
        """Tracked and new files; empty where the tree is not a git checkout."""
        command = ["git", "-C", str(self.root), "ls-files", "-co", "--exclude-standard", "-z"]
        try:
            out = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        except (OSError, subprocess.CalledProcessError):
            return []
        return [p for p in out.split("\0") if p and (self.root / p).is_file()]

    def _walked_files(self):
        for folder, names, files in os.walk(self.root):
            names[:] = [n for n in names if n not in SKIPPED_FOLDERS]
            for file in files:
                yield (Path(folder) / file).relative_to(self.root).as_posix()


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1
