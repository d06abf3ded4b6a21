"""The command line as an interface: exit codes, formats, what it loads, what a typo says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML
from tests.bench import generator
from tests.conftest import MODEL, ROOT, SPECS, commit_all, git, run_forge

HEAVY = ("torch", "transformers", "datatrove", "vllm", "lm_eval", "numpy", "model_signing", "sigstore")


UNUSED = (
    "cryptography",
    "forge.contract.record",
    "forge.executors.local",
    "forge.ledger.index",
    "forge.ledger.lease",
    "forge.plan.plan",
    "forge.spec.resource",
    "fsspec",
    "git",
    "pathspec",
    "psutil",
    "rich",
    "ruamel",
    "yaml",
)
"""What a plan needs only where something has changed; each costs as much as the comparison that finds that nothing has."""


def loaded(folder: Path, config_home: Path, command: list[str], names: tuple[str, ...]) -> tuple[str, str]:
    """Which of some modules a command has loaded when it ends, and what it printed."""
    program = (
        "import sys, atexit\n"
        "from forge.cli.main import run\n"
        f"names = {names!r}\n"
        "atexit.register(lambda: print('LOADED', [m for m in names if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['forge', *{command!r}]\n"
        "run()\n"
    )
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()[-1], done.stdout


@pytest.mark.parametrize("command", [["plan"], ["validate"], ["status"], ["schema"], ["apply"]])
def test_deciding_loads_nothing_heavy(applied: Path, config_home: Path, command: list[str]) -> None:
    assert loaded(applied, config_home, command, HEAVY)[0] == "LOADED []"


def test_a_plan_of_what_has_not_changed_loads_what_compares_and_nothing_that_decides(tmp_path: Path, config_home: Path) -> None:
    generator.write_repository(tmp_path, 100)
    generator.write_history(tmp_path)
    long_ago = time.time() - 60
    for folder in (tmp_path / ".forge" / "store" / "manifests", *(tmp_path / ".forge" / "store" / "manifests").iterdir()):
        os.utime(folder, (long_ago, long_ago))  # a store that changed just now is looked at in full
    said, decided = loaded(tmp_path, config_home, ["plan"], UNUSED)
    assert "forge.plan.plan" in said
    assert decided.endswith(" in sync\n")
    assert loaded(tmp_path, config_home, ["plan"], UNUSED) == ("LOADED []", decided)


def test_a_suite_that_the_data_was_not_cleaned_of_is_warned_of(applied: Path, config_home: Path) -> None:
    for command in (["validate"], ["plan", "--without-store"]):
        done = run_forge(applied, config_home, *command)
        assert (
            "warning: Model/small is evaluated on EvalSuite/small, and its data, DataRecipe/small, is not clean" in done.stderr
        )
    data = json.loads(run_forge(applied, config_home, "validate", "--format", "json").stdout)
    assert len(data["warnings"]) == 1


def test_json_goes_to_stdout_and_nothing_else(applied: Path, config_home: Path) -> None:
    done = run_forge(applied, config_home, "plan", "--format", "json")
    plan = json.loads(done.stdout)
    assert done.stderr == ""
    assert plan["schema_version"] == 2
    assert plan["summary"]["nothing"] == 7
    status = json.loads(run_forge(applied, config_home, "status", "--format", "json").stdout)
    assert status["environments"]["local"]["deployment"] == "small-local"


def test_plan_exit_codes(repository: Path, config_home: Path) -> None:
    run_forge(repository, config_home, "plan")
    run_forge(repository, config_home, "plan", "--exit-code", code=3)


def test_faults_go_to_stderr_with_exit_code_2(repository: Path, config_home: Path) -> None:
    (repository / "models" / "model.yaml").write_text(MODEL.replace("hidden_size: 32", "hiden_size: 32"))
    commit_all(repository)
    for command in ("validate", "plan", "apply"):
        done = run_forge(repository, config_home, command, code=2)
        assert "models/model.yaml:8:33: unknown key `hiden_size`; did you mean `hidden_size`?" in done.stderr
        assert done.stdout == ""
    github = run_forge(repository, config_home, "validate", "--format", "github", code=2).stdout
    assert github.startswith("::error file=models/model.yaml,line=8,col=17::missing key `hidden_size`")
    data = json.loads(run_forge(repository, config_home, "validate", "--format", "json", code=2).stdout)
    assert [row["line"] for row in data["diagnostics"]] == [8, 8]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["plam"], "Did you mean 'plan'"),
        (["plan", "--ref", "nowhere"], "no commit is named 'nowhere'"),
        (["plan", "--target", "Model/smal"], "there is no Model/smal; did you mean `Model/small`?"),
        (["plan", "--worktree", "--ref", "HEAD~0"], "exclude each other"),
        (["plan", "--base", "nowhere"], "no commit is named 'nowhere'"),
        (["plan", "--without-store", "--out", "plan.json"], "made without looking"),
        (["--repo", "/nowhere", "plan"], "not in a Git repository"),
        (["verify", "model/none"], "was ever trained here"),
        (["serve", "--env", ""], "'' is no name of an environment"),
        (["serve", "--env", "local", "--port", "99999"], "0<=x<=65535"),
    ],
)
def test_a_mistake_gets_one_clear_message(repository: Path, config_home: Path, command: list[str], said: str) -> None:
    done = run_forge(repository, config_home, *command, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_this_machine_cannot_open_is_no_obstacle_to_a_pull_request_s_plan(
    copy_of_applied: Path, config_home: Path
) -> None:
    settings = (copy_of_applied / "forge.toml").read_text() + '[store]\nurl = "nosuchscheme://bucket/models"\n'
    (copy_of_applied / "forge.toml").write_text(settings)
    commit_all(copy_of_applied)
    assert "cannot be opened" in run_forge(copy_of_applied, config_home, "plan", code=2).stderr
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan", "--without-store").stdout


def test_what_a_stranger_wrote_gives_a_log_no_commands(repository: Path, config_home: Path) -> None:
    (repository / "models" / "model.yaml").write_text('kind: "x\\n::error::boo\\e[2J"\n')
    commit_all(repository)
    for command in (["plan"], ["validate", "--format", "github"]):
        done = run_forge(repository, config_home, *command, code=2)
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("::error::boo")]
        assert "\x1b" not in done.stdout + done.stderr


def test_git_s_own_environment_never_chooses_the_repository(copy_of_applied: Path, repository: Path, config_home: Path) -> None:
    """Hooks run with GIT_DIR set; a ledger must not land in whatever repository that is."""
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home), "GIT_DIR": str(repository / ".git")}
    done = subprocess.run(
        [Path(sys.executable).with_name("forge"), "--repo", str(copy_of_applied), "plan"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "7 in sync" in done.stdout


def test_a_linked_work_tree_shares_ledger_and_store(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    git(copy_of_applied, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    assert "7 in sync" in run_forge(tmp_path / "linked", config_home, "plan").stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[stor]\nurl = 'x'\n", "forge.toml:1: unknown key `stor`; did you mean `store`?"),
        ("required_version = '>=9'\n", "required_version is '>=9', this is Forge 0.1.0"),
        ("required_version = 'new'\n", "required_version"),
        ("a = \n", "not valid TOML"),
        ("[ledger]\nref = 'refs/heads/main'\n", "ledger.ref"),
        ("[specs]\ninclude = ['nothing/*']\n", "no spec is found by specs.include"),
    ],
)
def test_forge_toml_is_checked(repository: Path, config_home: Path, settings: str, said: str) -> None:
    (repository / "forge.toml").write_text(settings)
    commit_all(repository)
    assert said in run_forge(repository, config_home, "plan", code=2).stderr


def test_schemas_accept_the_specs_and_refuse_a_typo(repository: Path, config_home: Path) -> None:
    run_forge(repository, config_home, "schema")
    for text in SPECS.values():
        spec = YAML(typ="safe", pure=True).load(text)
        schema = json.loads((repository / ".forge" / "schemas" / f"{spec['kind']}.json").read_text())
        jsonschema.validate(spec, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**spec, "specs": {}}, schema)


def test_a_linked_work_tree_has_schemas_of_its_own(repository: Path, config_home: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    git(repository, "worktree", "add", "--detach", str(linked))
    run_forge(linked, config_home, "schema")
    assert (linked / ".forge" / "schemas" / "Model.json").is_file()
    assert git(linked, "status", "--short") == ""


def test_this_repository_is_a_valid_configuration_and_its_specs_name_their_schemas(config_home: Path) -> None:
    assert "resources are valid" in run_forge(ROOT, config_home, "validate", "--worktree").stdout
    run_forge(ROOT, config_home, "schema")
    files = [*ROOT.glob("models/**/*.yaml"), *ROOT.glob("policies/*.yaml"), *ROOT.glob("evals/*.yaml")]
    assert {ROOT / "models/handbook/model.yaml", ROOT / "policies/supply-chain.yaml", ROOT / "evals/handbook.yaml"} < set(files)
    for file in files:
        first = file.read_text().splitlines()[0]
        assert (file.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve().is_file(), file
