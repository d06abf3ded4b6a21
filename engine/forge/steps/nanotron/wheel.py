"""The one release of nanotron that this engine runs, told by its bytes.

Invariant: what runs is what was hashed. The files are read once, compared with the digest below, and compiled from the very
bytes that were compared; nothing is imported from disk afterwards, and no other release is accepted, for the changes of
``loader`` were made for these files and tested with them.
"""

import importlib.util
from pathlib import Path

from forge.canonical import digest_of_bytes
from forge.contract.manifest import manifest_of
from forge.errors import StepError

PACKAGE = "nanotron"
VERSION = "0.4"
WHEEL = "nanotron-0.4-py3-none-any.whl"
WHEEL_DIGEST = "sha256:0c1834e91c17c651f430d46a1e779bc49991c33bda26cc237beae7d12b383ad9"
"""Of the wheel as it is published."""
FILES_DIGEST = "sha256:19788616c8de6b59300222dc6114592f44adf743377bdd2ebcf56c252599183c"
"""Of the manifest of the wheel's Python files, which is what is left of a wheel when it is installed."""
INSTALL = "pip install --no-deps nanotron==0.4 dacite==1.9.2"
_NEEDS = "dacite"


def read_wheel() -> dict[str, bytes]:
    """Path under ``nanotron/`` -> source, of the installed release; raises ``StepError`` where it is missing or another."""
    folder = _installed(PACKAGE)
    _installed(_NEEDS)
    sources = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}
    check_sources(sources, folder)
    return sources


def check_sources(sources: dict[str, bytes], folder: Path) -> None:
    """Refuse any other files than the release's; raises ``StepError``."""
    found = manifest_of({path: (len(data), digest_of_bytes(data)) for path, data in sources.items()}).digest
    if found != FILES_DIGEST:
        raise StepError(
            f"{folder}: these are not the files of {WHEEL} ({WHEEL_DIGEST}): they have the digest {found}, expected "
            f"{FILES_DIGEST}. `backend: nanotron` runs that release alone: remove this one and run `{INSTALL}`"
        )


def provenance() -> dict[str, str]:
    """What a record says of the backend."""
    return {"backend": f"{PACKAGE} {VERSION}", "backend_wheel": WHEEL, "backend_wheel_digest": WHEEL_DIGEST}


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise StepError(f"`backend: nanotron` needs the package {package}, which is not installed: run `{INSTALL}`")
    return Path(spec.origin).parent
