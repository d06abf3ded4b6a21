"""The example's policies: nobody has to approve, and docs/trust.md says how people are added, word for word."""

import re
from pathlib import Path

import pytest
from tests.conftest import ROOT, commit_all, git, run_forge
from tests.governed import Governed, commit_as, make_governed

POLICIES = ("people.yaml", "supply-chain.yaml")


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "example"
    git(ROOT, "clone", "--quiet", "--no-local", "--depth", "1", ROOT.as_uri(), str(folder))
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@forge.invalid")
    for name in POLICIES:  # as they are here, committed or not
        (folder / "policies" / name).write_text((ROOT / "policies" / name).read_text())
    return folder


def documented() -> list[str]:
    section = (ROOT / "docs" / "trust.md").read_text().split("## People and approvals\n")[1].split("\n## ")[0]
    return re.findall(r"^```yaml\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def test_the_example_commits_no_private_key_and_waits_for_nobody(clone: Path, config_home: Path) -> None:
    text = "".join(path.read_text() for path in (clone / "policies").iterdir())
    assert "PRIVATE" not in text
    assert "  people: []\n" in text
    commit_all(clone)
    said = run_forge(clone, config_home, "keys", "delegate", "--yes")
    assert "approvals     none for a release; none for a plan" in said.stdout + said.stderr


def test_people_are_added_as_the_documentation_says(clone: Path, governed: Governed, config_home: Path) -> None:
    people, rules = documented()
    path = clone / "policies" / "people.yaml"
    for name in ("ana", "ben"):
        people = people.replace("ssh-ed25519 AAAA..", governed.person(name), 1)
    path.write_text(path.read_text().replace("spec:\n  people: []\n", people))
    assert "AAAA.." not in path.read_text()
    approvers, approvals = rules.split("  release:\n")
    path = clone / "policies" / "supply-chain.yaml"
    path.write_text(path.read_text().replace("  release:\n", f"{approvers}  release:\n{approvals}"))
    commit_as(clone, governed, "ana", "people")
    said = run_forge(clone, config_home, "keys", "delegate", "--yes")
    told = said.stdout + said.stderr
    assert "approvers     ana, ben" in told
    assert re.search(r"approvals +1 for local", told), told
    run_forge(clone, config_home, "plan")
