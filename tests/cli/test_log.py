"""`forge log` from the first key to a witness that refuses: what it prints, what it ends with, what is at fault."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, run_forge
from tests.serve.test_audit import day, record

from forge.attest.keys import make_development_keys
from forge.cli.serving import audit_log_place
from forge.ledger.ledger import Ledger
from forge.reconcile.log_place import LogPlace
from forge.repo.repository import Repository
from forge.serve.audit import AuditLog
from forge.serve.transparency import AuditLogPlace
from forge.spec.settings import Settings

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def place(copy_of_applied: Path) -> Path:
    with (copy_of_applied / "forge.toml").open("a") as file:
        file.write('\n[log]\norigin = "example.org/forge"\n')
    commit_all(copy_of_applied)
    return copy_of_applied


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Run:
    """``run("update", code=0)``: `forge log update`, with a configuration folder of its own."""
    make_development_keys(tmp_path / "config")
    return lambda *words, code=0: run_forge(place, tmp_path / "config", "log", *words, code=code)


def change_policy(place: Path) -> None:
    path = place / "policies" / "small.yaml"
    text = path.read_text()
    assert "max_tokens: 32" in text
    path.write_text(text.replace("max_tokens: 32", "max_tokens: 16"))
    commit_all(place)


def witness_key(folder: Path) -> Path:
    path = folder / "witness.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    return path


def test_the_ledger_is_logged_proved_and_witnessed(place: Path, run: Run, tmp_path: Path) -> None:
    key = run("init").stdout.strip()
    assert key.startswith("example.org/forge/ledger+")
    assert run("init").stdout.strip() == key, "a key that is there is kept"
    assert (tmp_path / "config/keys/log.pem").stat().st_mode & 0o777 == 0o600
    assert run("update").stdout.startswith("8 new; example.org/forge/ledger at 8 leaves, root ")
    assert run("update").stdout.startswith("0 new; ")
    assert "holds: example.org/forge/ledger at 8 leaves" in run("check").stdout

    with Repository(place) as repository:
        entry = Ledger(repository, "refs/forge/ledger").snapshot().entry(4)
    assert entry is not None
    for subject in (entry.digest, entry.body.attestations["link"]):  # type: ignore[union-attr]
        run("prove", subject, "--out", str(tmp_path / "proof.json"))
        done = run("verify", str(tmp_path / "proof.json"), "--key", key, "--subject", subject)
        assert done.stdout.startswith("holds: leaf 3 of example.org/forge/ledger at 8 leaves")
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert json.loads(proof["leaf"])["sequence"] == 4
    assert (
        "its leaf does not name" in run("verify", str(tmp_path / "proof.json"), "--key", key, "--subject", "x", code=4).stderr
    )
    proof["leaf"] = proof["leaf"].replace('"sequence":4', '"sequence":5')
    (tmp_path / "forged.json").write_text(json.dumps(proof))
    assert "leads to the root" in run("verify", str(tmp_path / "forged.json"), "--key", key, code=4).stderr

    words = ["witness", str(place / ".forge/log/ledger"), "--state", str(tmp_path / "w/state.json"), "--name", "w.example"]
    words += ["--key", str(witness_key(tmp_path)), "--log-key", key]
    done = run(*words, "--out", str(tmp_path / "cosigned"))
    cosigner = next(
        line.removeprefix("verifier key: ") for line in done.stderr.splitlines() if line.startswith("verifier key: ")
    )
    run("prove", entry.digest, "--checkpoint", str(tmp_path / "cosigned"), "--out", str(tmp_path / "proof.json"))
    done = run("verify", str(tmp_path / "proof.json"), "--key", key, "--witness", cosigner)
    assert "cosigned: w.example at " in done.stdout
    fork = tmp_path / "fork"
    shutil.copytree(place, fork, symlinks=True)
    shutil.rmtree(fork / ".forge/log")
    (fork / ".git/forge/log-seals.json").unlink()
    git(fork, "update-ref", "refs/forge/ledger", "refs/forge/ledger~1")
    (fork / ".git/forge/ledger-head").unlink()
    run_forge(fork, tmp_path / "config", "log", "update")
    refused = run("witness", str(fork / ".forge/log/ledger"), *words[2:], code=4)
    assert refused.stderr.count("root ") == 2
    assert refused.stdout == ""


def test_apply_logs_what_it_appends(place: Path, run: Run, tmp_path: Path, config_home: Path) -> None:
    """Its key lies with the roles' keys, as `forge keys init` makes it."""
    run_forge(place, config_home, "keys", "init")
    done = run_forge(place, config_home, "apply")
    assert "transparency log" not in done.stderr
    with Repository(place) as repository:
        head = Ledger(repository, "refs/forge/ledger").snapshot().head[0]
    said = run_forge(place, config_home, "log", "check").stdout
    assert f"at {head} leaves" in said
    assert "not logged yet" not in said
    change_policy(place)
    run_forge(place, config_home, "apply")
    said = run_forge(place, config_home, "log", "check").stdout
    assert f"at {head + 2} leaves" in said, "the release's record and its move"


def test_what_could_not_be_logged_is_told_kept_and_caught_up(place: Path, config_home: Path) -> None:
    run_forge(place, config_home, "keys", "init")
    folder = place / ".forge" / "log" / "ledger"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    change_policy(place)
    told = run_forge(place, config_home, "apply").stderr
    assert told.count("not in its transparency log yet (`forge log update` logs them)") == 1
    assert "In sync with commit" in told
    folder.unlink()
    assert "transparency" not in run_forge(place, config_home, "apply").stderr
    said = run_forge(place, config_home, "log", "check").stdout
    assert "at 10 leaves" in said
    assert "not logged yet" not in said


def test_without_a_key_apply_says_how_one_is_made(place: Path, config_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "without"
    shutil.copytree(config_home, config)
    (config / "keys" / "log.pem").unlink(missing_ok=True)
    assert "`forge log init` makes the key" in run_forge(place, config, "apply").stderr


def test_a_ledger_that_was_rewritten_is_named_and_not_logged(place: Path, run: Run, tmp_path: Path) -> None:
    run("init")
    run("update")
    git(place, "update-ref", "refs/forge/ledger", "refs/forge/ledger~1")
    (place / ".git/forge/ledger-head").unlink()
    assert "entries were cut off" in run("update", code=4).stderr
    assert "but the ledger has no entry 7" in run("check", code=1).stderr


def test_a_damaged_or_older_log_is_named(place: Path, run: Run, tmp_path: Path) -> None:
    run("init")
    run("update")
    folder = place / ".forge/log/ledger"
    bundle = folder / "tile/entries/000.p/8"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole.replace(b'"sequence":3', b'"sequence":9'))
    done = run("check", code=1)
    assert (done.stdout, "leaf 2 of the log is" in done.stderr) == ("", True)
    bundle.write_bytes(whole)
    shutil.rmtree(folder)
    seals = place / ".git/forge/log-seals.json"
    sealed = seals.read_bytes()
    seals.unlink()
    (place / ".git/forge/ledger-head").unlink()
    head = git(place, "rev-parse", "refs/forge/ledger")
    git(place, "update-ref", "refs/forge/ledger", f"{head}~2")
    run("update")
    (place / ".git/forge/ledger-head").unlink()
    git(place, "update-ref", "refs/forge/ledger", head)
    seals.write_bytes(sealed)
    assert "it was set back, cut or exchanged" in run("check", code=1).stderr
    assert "to sign on would fork the log" in run("update", code=4).stderr


def test_audit_files_of_an_agent_that_does_not_run(place: Path, run: Run, tmp_path: Path) -> None:
    key = run("init", "--env", "local").stdout.splitlines()[1]
    folder = place / ".forge/serve/audit/local"
    log = AuditLog(folder, day(1))
    for name in ("first", "second", "third"):
        log.write(record(name))
    assert run("update", "--env", "local").stdout.startswith("3 new; example.org/forge/audit/local at 4 leaves")
    log.write(record("fourth"))
    done = run("check", "--env", "local").stdout
    assert "3 lines of the audit files are as they were logged" in done
    assert "not logged yet: 1" in done
    run("prove", "second", "--env", "local", "--out", str(tmp_path / "proof.json"))
    assert '"request_id":"second"' in run("verify", str(tmp_path / "proof.json"), "--key", key).stdout
    assert "no leaf of the log" in run("prove", "fourth", "--env", "local", code=1).stderr

    (file,) = folder.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[2], lines[1], lines[3]]))
    assert "leaf 2 of the log is" in run("check", "--env", "local", code=1).stderr
    file.rename(tmp_path / "moved.jsonl")
    assert "not compared: 3 lines of requests-2030-01-01.jsonl" in run("check", "--env", "local").stdout
    (tmp_path / "moved.jsonl").write_bytes(b"".join(lines))
    assert "3 lines of the audit files" in run("check", "--env", "local", "--files", str(tmp_path)).stdout


def test_an_agent_logs_its_lines_where_forge_toml_names_a_log(repository: Path, tmp_path: Path) -> None:
    with Repository(repository) as opened:
        named = LogPlace(opened, Settings.model_validate({"log": {"origin": "example.org/f", "folder": "logs"}}), tmp_path)
        assert audit_log_place(named, "prod") == AuditLogPlace(
            repository / "logs/audit/prod", "example.org/f/audit/prod", tmp_path / "keys/log.pem", named.seals
        )
        assert audit_log_place(LogPlace(opened, Settings(), tmp_path), "prod") is None


def test_the_trust_root_comes_first(place: Path, tmp_path: Path) -> None:
    """`forge keys init` would take a log's key for what is left of a lost root."""
    assert "forge keys init" in run_forge(place, tmp_path / "new", "log", "init", code=4).stderr
    run_forge(place, tmp_path / "new", "keys", "init")
    run_forge(place, tmp_path / "new", "log", "init")


def test_nothing_is_guessed(copy_of_applied: Path, run: Run, place: Path) -> None:
    assert "there is no key" in run("update", code=4).stderr
    assert "holds no checkpoint" in (run("init"), run("check", code=1))[1].stderr
    assert "name its environment" in run("prove", "some-request", code=2).stderr
    assert "is no name of an environment" in run("update", "--env", "../x", code=2).stderr
    (place / "forge.toml").write_text((place / "forge.toml").read_text().replace('origin = "example.org/forge"', ""))
    commit_all(place)
    assert '[log]\norigin = "example.org/forge"' in run("update", code=2).stderr


@pytest.mark.parametrize("origin", ["https://example.org", "example.org/a b", "example.org/a+b", "", "/x", "example.org/"])
def test_a_name_that_a_log_cannot_have(place: Path, run: Run, origin: str) -> None:
    (place / "forge.toml").write_text((place / "forge.toml").read_text().replace('"example.org/forge"', json.dumps(origin)))
    commit_all(place)
    assert "`log.origin`" in run("init", code=2).stderr
