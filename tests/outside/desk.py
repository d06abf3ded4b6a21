"""A reviewer's desk: the outside verifiers, and no Forge."""

import subprocess
import sys
from pathlib import Path

from tests.outside.node import node


class Desk:
    """Runs shell commands in an environment of its own: programs of the system, in-toto-verify, Node.js and model_signing."""

    def __init__(self, folder: Path) -> None:
        self._tools, self._home = folder / "tools", folder / "home"
        self._tools.mkdir(parents=True)
        self._home.mkdir()
        verify = Path(sys.executable).with_name("in-toto-verify")
        programs = {
            "in-toto-verify": [sys.executable, "-I", str(verify)],
            "model_signing": [sys.executable, "-I", "-m", "model_signing"],
            "node": node(),
        }
        for name, command in programs.items():
            (self._tools / name).write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
            (self._tools / name).chmod(0o755)

    def __call__(self, folder: Path, command: str, root: str = "") -> subprocess.CompletedProcess[str]:
        """One command, in a folder; ``root`` is the digest of the trust root, which the reviewer has from elsewhere."""
        path = f"{self._tools}:/usr/local/bin:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(self._home), "TRUST_ROOT": root}
        return subprocess.run(
            ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
