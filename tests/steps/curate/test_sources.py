"""A curation that fetches: pinned by its parameters, with its addresses beside them."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import request_of, run_process
from tests.steps.fetch.repository import repository

from forge.contract.inventory import Inventory
from forge.errors import StepError
from forge.steps import curate
from forge.steps.run import StepRun

PROSE = b"A text about the wind that turns the mill, and about the miller who sleeps while it turns.\n"
ROWS = b"".join(json.dumps({"id": str(n), "text": f"Row {n} of what lies far away."}).encode() + b"\n" for n in range(30))
pytestmark = pytest.mark.usefixtures("own_environment")
Where = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def where(tmp_path: Path) -> Where:
    """Parameters and settings of a recipe with a Git source, a file behind a URL, and one of its own repository."""
    code = {f"src/m{number}.py": f"def f{number}():\n    return {number}\n".encode() for number in range(20)}
    sha = repository(tmp_path / "origin", {**code, "README.md": PROSE})
    (tmp_path / "rows").write_bytes(ROWS)
    parameters = {
        "sources": [
            {"git": {"commit": sha, "include": ["**/*.py", "*.md"]}},
            {"files": [{"sha256": hashlib.sha256(ROWS).hexdigest(), "format": "jsonl"}]},
            {},
        ],
        "split": {"validation_fraction": 0.3},
    }
    addresses = [{"git": {"url": str(tmp_path / "origin")}}, {"files": [{"url": f"file://{tmp_path}/rows"}]}, {}]
    return parameters, {"sources": addresses}


def own(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    (folder / "00000.txt").write_bytes(PROSE)
    return {"source-2": folder}


def run(folder: Path, where: Where, inputs: dict[str, Path], **more: object) -> Path:
    (folder / "output").mkdir(parents=True)
    update = {"settings": where[1], **more}
    curate.run(StepRun(request_of(folder, "curate", where[0], dict(inputs)).model_copy(update=update), folder))
    return folder / "output"


def documents(output: Path) -> dict[str, str]:
    lines = [line for path in (output / "documents").rglob("*.jsonl") for line in path.read_text().splitlines()]
    return {row["id"]: row["text"] for row in map(json.loads, lines)}


def test_documents_come_from_all_kinds_of_source_and_code_is_known_by_its_path(tmp_path: Path, where: Where) -> None:
    output = run(tmp_path / "one", where, own(tmp_path))
    found = documents(output)
    assert found["0/src/m7.py"] == "def f7():\n    return 7\n"
    assert found["0/README.md"] == PROSE.decode()
    assert {"3", "2/00000.txt"} <= found.keys()
    assert len(found) == 20 + 1 + 30 + 1
    inventory = Inventory.model_validate_json((output / "inventory" / "inventory.json").read_bytes())
    assert [(file.source, file.language) for file in inventory.files[:2]] == [(0, ""), (0, "Python")]
    assert (inventory.files[-1].path, inventory.files[-1].size) == ("0", len(ROWS))
    assert b"file://" not in (output / "inventory" / "inventory.json").read_bytes()
    assert not list((tmp_path / "one" / "scratch").iterdir())


def test_another_address_for_the_same_content_gives_the_same_bytes(tmp_path: Path, where: Where) -> None:
    first = run(tmp_path / "one", where, own(tmp_path), downloads=str(tmp_path / "kept"))
    (tmp_path / "origin").rename(tmp_path / "moved")
    moved = (where[0], {"sources": [{"git": {"url": f"file://{tmp_path}/moved"}}, *where[1]["sources"][1:]]})
    second = run(tmp_path / "two", moved, own(tmp_path))
    (tmp_path / "moved").rename(tmp_path / "away")
    third = run(tmp_path / "three", moved, own(tmp_path), downloads=str(tmp_path / "kept"))
    for name in ("documents/train/00000.jsonl", "report/report.json", "inventory/inventory.json"):
        assert len({(output / name).read_bytes() for output in (first, second, third)}) == 1


def test_a_file_that_changed_since_it_was_pinned_ends_the_step(tmp_path: Path, where: Where) -> None:
    (tmp_path / "rows").write_bytes(ROWS + b"{}\n")
    with pytest.raises(StepError, match=r"sources\[1\].files\[0\] .*expected sha256"):
        run(tmp_path / "one", where, own(tmp_path))


def test_a_request_without_addresses_is_refused(tmp_path: Path, where: Where) -> None:
    with pytest.raises(StepError, match=r"sources\[0\]: the request says no address"):
        run(tmp_path / "one", (where[0], {}), own(tmp_path))


def test_a_missing_remote_is_a_failure_of_the_step_in_its_own_words(tmp_path: Path, where: Where) -> None:
    (tmp_path / "origin").rename(tmp_path / "away")
    folder = tmp_path / "process"
    request = request_of(folder, "curate", where[0], dict(own(tmp_path)))
    done = run_process(folder, request.model_copy(update={"settings": where[1]}))
    assert done.status == 1
    assert done.failure["cause"] == "input"
    assert done.failure["message"].startswith("sources[0] (")
    assert "apply again" in done.failure["message"]


def test_a_recipe_that_fetches_nothing_keeps_its_environment_and_leaves_no_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "00000.jsonl").write_bytes(ROWS)
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.3}}
    output = run(tmp_path / "one", (parameters, {}), {"source-0": folder})
    assert not (output / "inventory").exists()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "x"


@pytest.mark.parametrize(
    ("kind", "scheme", "pinned"),
    [("files", "http", {"sha256": "1" * 64, "format": "jsonl"}), ("git", "https", {"commit": "1" * 40, "include": ["*"]})],
)
def test_a_step_that_is_told_to_stop_while_a_host_keeps_it_waiting_stops_at_once(
    tmp_path: Path, kind: str, scheme: str, pinned: dict[str, Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a connection and never answers
        address = {"url": f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x.jsonl"}
        parameters = {"sources": [{kind: [pinned] if kind == "files" else pinned}], "split": {"validation_fraction": 0.3}}
        folder = tmp_path / "waits"
        folder.mkdir()
        request = request_of(folder, "curate", parameters, {}).model_copy(
            update={"settings": {"sources": [{kind: [address] if kind == "files" else address}]}}
        )
        (folder / "request.json").write_text(request.model_dump_json())
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        process = subprocess.Popen(
            [sys.executable, "-m", "forge.steps", str(folder / "request.json")], stderr=subprocess.DEVNULL, env=environment
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            process.terminate()
            process.wait(timeout=30)
            assert time.monotonic() - began < 12
            connection.settimeout(10)
            while connection.recv(4096):  # whoever held the other end has let go of it
                pass
    assert json.loads((folder / "failure.json").read_text())["cause"] == "stopped"
    assert not list((folder / "scratch").glob("*/*"))
