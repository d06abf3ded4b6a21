"""The main job as a user gets it: a fresh clone, no network, from the commit to served and verified answers.

Also: the example's gate stops a model that learnt nothing, and one that learnt for a tenth of the time.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.browser import check_report, needs_chromium
from tests.conftest import ROOT, commit_all, git, run_forge
from tests.outside.desk import Desk
from tests.outside.node import FOLDER

from forge.attest.trust import read_trust_root
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store

pytestmark = pytest.mark.e2e

MODEL_FILE = "models/handbook/model.yaml"


def without_network() -> list[str]:
    """A prefix that gives a command an empty network namespace with only loopback; empty where that is not allowed."""
    for unshare in (["unshare", "-n"], ["unshare", "-rn"]):
        if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], check=False, capture_output=True).returncode == 0:
            return [*unshare, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return []


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "forge"
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@forge.invalid")
    return folder


@pytest.fixture(scope="module")
def main_job(clone: Path, config_home: Path) -> str:
    prefix = without_network()
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home)}
    command = [*prefix, sys.executable, "tests/e2e/main_job.py"]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_needs_no_network(main_job: str) -> None:
    """The fixture ran it in an empty network namespace, wherever the machine gives one."""
    if not without_network():
        pytest.skip("this machine gives no network namespace: the main job ran with the network there is")
    assert "Done in " in main_job


def test_a_commit_becomes_a_served_and_verified_model(main_job: str) -> None:
    for step in ("curate", "tokenizer", "tokenize", "train"):
        assert f"{step}/handbook: done in " in main_job
    assert "gate/handbook-local: done in" in main_job
    assert "verdict GO" in main_job
    assert "model/handbook: the chain holds" in main_job
    assert "rests on: DEVELOPMENT trust root" in main_job


def test_one_request_is_answered_one_refused_one_redacted(main_job: str) -> None:
    assert re.search(r"answered   '.*\w.*'", main_job)
    assert re.search(r"refused    403 .*auditors-do-not-generate", main_job)
    assert re.search(r"redacted   '\[email\]' \(the engine itself said '[a-z]+@[a-z]+\.org'\)", main_job)


def test_the_ledger_and_the_requests_are_in_their_logs(main_job: str, clone: Path, config_home: Path) -> None:
    assert "not in its transparency log" not in main_job
    ledger = run_forge(clone, config_home, "log", "check").stdout
    assert "every leaf is an entry of the ledger" in ledger
    assert "not logged yet" not in ledger
    audit = run_forge(clone, config_home, "log", "check", "--env", "local").stdout
    assert "3 lines of the audit files are as they were logged" in audit


def test_nothing_that_was_started_is_left(main_job: str, clone: Path) -> None:
    running = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in running if str(clone) in command]


def test_a_second_apply_finds_everything_in_sync(main_job: str, clone: Path, config_home: Path) -> None:
    assert "10 in sync" in run_forge(clone, config_home, "apply").stdout


def test_a_reviewer_without_forge_reaches_the_verdict_on_the_example(
    main_job: str, clone: Path, config_home: Path, tmp_path: Path
) -> None:
    """The bundle's script, then the README's last step: the weights that serve, whole and with one byte changed."""
    desk, received, root = Desk(tmp_path / "desk"), tmp_path / "received", read_trust_root(config_home).digest
    run_forge(clone, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    received.mkdir()
    for name in ("verify.sh", "bundle.tar.gz"):
        shutil.copy(tmp_path / "report" / name, received)
    (received / "node_modules").symlink_to(FOLDER / "node_modules")
    script = desk(received, f"sh verify.sh {root} bundle.tar.gz")
    assert script.returncode == 0, script.stdout + script.stderr
    assert script.stdout.endswith("VERDICT release/local: the chain holds (DEVELOPMENT trust root)\n")

    weights, bundle = tmp_path / "weights", received / "bundle"
    weights.mkdir()
    record = Ledger(Repository(clone), "refs/forge/ledger").snapshot().latest("train/handbook")
    assert record is not None
    Store(".forge/store", clone).lay_out(record.products["weights"], weights)
    (line,) = [
        line for line in (bundle / "work" / "sigstore.list").read_text().splitlines() if "train-handbook.weights" in line
    ]
    signature, key = (bundle / word for word in line.split()[:2])
    hashed = f"sha256sum --check --strict --quiet {bundle / 'weights.sha256'}"
    signed = f"model_signing verify key {weights} --signature {signature} --public_key {key}"
    for command in (hashed, signed):
        done = desk(weights, command)
        assert done.returncode == 0, done.stdout + done.stderr
    tensors = bytearray((weights / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (weights / "model.safetensors").unlink()  # what is laid out may be a link to the store's own bytes
    (weights / "model.safetensors").write_bytes(tensors)
    assert "model.safetensors: FAILED" in desk(weights, hashed).stdout
    assert "model.safetensors" in desk(weights, signed).stderr
    assert desk(weights, signed).returncode == 1


@needs_chromium
def test_the_report_on_the_example_reads_and_prints(main_job: str, clone: Path, config_home: Path, tmp_path: Path) -> None:
    run_forge(clone, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    check_report(tmp_path / "report", "handbook", "local", tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("untrained", {"tokens: 2M": "tokens: 2048", "100k": "0", "500k": "0", "lr: 4.0e-3": "lr: 1.0e-9"}),
        ("a tenth of the tokens", {"tokens: 2M": "tokens: 200k", "100k": "10k", "500k": "50k"}),
    ],
)
def test_the_gate_stops_a_model_that_learnt_too_little(
    main_job: str, clone: Path, config_home: Path, name: str, changes: dict[str, str]
) -> None:
    git(clone, "checkout", "--quiet", "origin/HEAD")
    text = (clone / MODEL_FILE).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (clone / MODEL_FILE).write_text(text)
    commit_all(clone, name)
    done = run_forge(clone, config_home, "apply", "--target", "Deployment/handbook-local", code=1)
    assert "release/handbook-local is blocked: gate/handbook-local says NO-GO" in done.stderr
    assert re.search(r"FAIL  handbook_cloze +acc_mutual_info +>= 0\.\d+ +0\.\d+", done.stderr), done.stderr
    assert re.search(r"FAIL  handbook_bpb +bits_per_byte +<= \d\.\d+ +\d\.\d+", done.stderr), done.stderr
