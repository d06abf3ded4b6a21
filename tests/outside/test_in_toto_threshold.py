"""A release whose role has a threshold before verifiers that Forge did not write: two links of a step, or it is refused."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.outside.desk import judged_by_script
from tests.outside.node import FOLDER
from tests.outside.test_in_toto import payload_of, signed_again, verified

from forge.admission.export import export
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.contract.kinds import Role
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> Path:
    """Tokenizer, tokens and weights were made by two trainers; the configuration of the second lies beside the repository."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_small(folder)
    chain = governed.supply_chain(release={})
    second = governed.another("trainer", "trainer-2", folder.parent / "second")
    chain["roles"]["trainer"] |= {"threshold": 2, "keys": [*chain["roles"]["trainer"]["keys"], second]}
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "the small example, trained twice")
    run_forge(folder, governed.config, "keys", "delegate")
    run_forge(folder, governed.config, "apply", code=1)
    for kind in ("tokenizer", "tokenize", "train"):
        run_forge(folder, folder.parent / "second", "reproduce", f"{kind}/small")
    run_forge(folder, governed.config, "apply")
    return folder


@pytest.fixture
def exported(released: Path, governed: Governed, tmp_path: Path) -> Path:
    with Repository(released) as repository:
        snapshot, root = Ledger(repository, "refs/forge/ledger").snapshot(), read_trust_root(governed.config)
        verdict = export("release/local", repository, snapshot, Store(".forge/store", released), root, tmp_path / "export")
    assert verdict.holds, verdict.findings
    return tmp_path / "export"


def links(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "in-toto" / "links").glob(f"{kind}.*.link"))


def test_in_toto_accepts_two_links_of_each_step_and_one_is_too_few(exported: Path) -> None:
    asked = {step["name"]: step["threshold"] for step in payload_of(exported / "in-toto" / "root.layout")["steps"]}
    assert {kind for kind, threshold in asked.items() if threshold == 2} == {"tokenizer", "tokenize", "train"}
    assert {kind: len(links(exported, kind)) for kind in asked} == asked
    assert verified(exported)
    for path in (path for kind in asked for path in links(exported, kind)):
        kept = path.read_bytes()
        path.unlink()
        assert not verified(exported), path.name
        path.write_bytes(kept)
    assert verified(exported)


@pytest.mark.parametrize("role", [Role.EVALUATOR, Role.TRAINER])
def test_a_second_link_by_another_role_or_by_the_first_again_is_refused(exported: Path, governed: Governed, role: Role) -> None:
    first = signer_for(Role.TRAINER, governed.config).public_key.keyid[:8]
    (other,) = (path for path in links(exported, "train") if first not in path.name)
    if role is Role.TRAINER:
        other.write_bytes(next(path for path in links(exported, "train") if path != other).read_bytes())
    else:
        signed_again(other, signer_for(role, governed.config), lambda payload: None)
    assert not verified(exported)


@pytest.mark.parametrize("part", ["materials", "products"])
def test_a_second_link_about_other_files_is_refused_although_a_trainer_signs_it(
    exported: Path, released: Path, governed: Governed, part: str
) -> None:
    def change(payload: dict[str, dict[str, object]]) -> None:
        path = next(iter(payload[part]))
        payload[part][path] = {"sha256": "0" * 64}

    first = signer_for(Role.TRAINER, governed.config).public_key.keyid[:8]
    (other,) = (path for path in links(exported, "train") if first not in path.name)
    signed_again(other, signer_for(Role.TRAINER, released.parent / "second"), change)
    assert not verified(exported)


@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="needs `make setup-dev`")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_reviewer_without_forge_counts_the_functionaries(released: Path, governed: Governed, tmp_path: Path) -> None:
    done = judged_by_script(released, governed.config, "local", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok      train: 2 functionaries made the same of the same, 2 needed" in done.stdout
    page = (tmp_path / "report" / "index.html").read_text()
    assert "made again, the same, by " in page
    assert "2 functionaries are asked for" in page
