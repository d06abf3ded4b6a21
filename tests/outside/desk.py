"""A reviewer's desk: the outside verifiers, and no Forge."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import run_forge
from tests.outside.node import FOLDER, node

from forge.attest.trust import read_trust_root


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


def judged_by_script(repository: Path, config: Path, environment: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A release's report, written by Forge; its bundle judged by its own script on a desk without Forge."""
    desk, received = Desk(folder / "desk"), folder / "received"
    run_forge(repository, config, "report", f"release/{environment}", "--out", str(folder / "report"))
    received.mkdir()
    for name in ("verify.sh", "bundle.tar.gz"):
        shutil.copy(folder / "report" / name, received)
    (received / "node_modules").symlink_to(FOLDER / "node_modules")
    return desk(received, f"sh verify.sh {read_trust_root(config).digest} bundle.tar.gz")


def holds_for_a_reviewer(repository: Path, config: Path, environment: str, folder: Path) -> None:
    """The chain holds by the bundle's script: every bundle goes through @sigstore/verify, and what is said together through
    check.mjs; and Sigstore's verifier is one that refuses.
    """
    done = judged_by_script(repository, config, environment, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"VERDICT release/{environment}: the chain holds\n")
    assert sigstore_refuses(folder, f"train-{environment}.provenance")


def sigstore_refuses(folder: Path, pattern: str) -> bool:
    """Whether ``@sigstore/verify`` takes a bundle of ``judged_by_script`` as it is, and refuses it with one byte changed."""
    bundle = folder / "received" / "bundle"
    (line,) = [line for line in (bundle / "work" / "sigstore.list").read_text().splitlines() if pattern in line]
    path, key = (bundle / word for word in line.split())
    desk = Desk(folder / "second")
    command = f"node verify.mjs {path} {key}"
    if desk(bundle, command).returncode != 0:
        return False
    text = path.read_text()
    signature = text.index('"sig":"') + len('"sig":"')
    path.write_text(text[:signature] + ("A" if text[signature] != "A" else "B") + text[signature + 1 :])
    return desk(bundle, command).returncode != 0
