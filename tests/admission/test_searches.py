"""Searches before admission: the best trial is picked once more, and every trial has to be what its commit asks for."""

import shutil
from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of as bodies
from tests.admission.test_attacks import record_of, rewrite, signed, verdict_of
from tests.conftest import commit_all, new_repository, run_forge, write_small
from tests.made import lay_made
from tests.searching import write_search

from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE
from forge.contract.kinds import Role
from forge.contract.record import Record
from forge.store.store import Store

TRIALS = range(3)
OF_THE_SEARCH = (
    "curate/small",
    "tokenizer/small",
    "tokenize/small",
    *(f"{step}/small.{number}" for number in TRIALS for step in ("sweep", "train")),
    *(f"evaluate/small.{number}.search" for number in TRIALS),
    "sweep/small",
)


def write(folder: Path) -> None:
    new_repository(folder)
    write_small(folder)
    write_search(folder)
    commit_all(folder, "a model that is searched for")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, applied: Path, config_home: Path) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "repository"
    write(folder)
    lay_made(applied, folder, OF_THE_SEARCH[:3])
    run_forge(folder, config_home, "apply")
    return folder


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def best(folder: Path) -> int:
    return int(record_of(folder, "sweep/small").metrics["trial"])


def told(folder: Path, config_home: Path, subject: str = "release/local") -> str:
    return "\n".join(map(str, verdict_of(folder, config_home, subject).findings))


def test_a_search_holds_and_says_what_it_picked(searched: Path, config_home: Path) -> None:
    verdict = verdict_of(searched, config_home)
    assert verdict.holds
    said = [check.message for check in verdict.checks if check.rule == "sweep"]
    assert said[0].startswith(f"sweep/small picked the best of 3 trials: trial {best(searched)}, search_bpb bits_per_byte ")
    assert said[1].startswith("the weights of 2 trials that were not picked are not hashed")


def test_a_search_that_picked_another_trial_is_not_released(searched: Path, tmp_path: Path, config_home: Path) -> None:
    """The sweep step itself was tampered with: everything after it is done, and signed, by the rules."""
    folder = tmp_path / "repository"
    write(folder)
    lay_made(searched, folder, OF_THE_SEARCH)
    other = (best(searched) + 1) % len(TRIALS)
    made = Store(".forge/store", searched).read_file(
        record_of(searched, f"sweep/small.{other}").products[HYPERPARAMETERS], HYPERPARAMETERS_FILE
    )
    key = record_of(searched, "sweep/small").key.removeprefix("sha256:")
    (path,) = (folder / ".forge" / "work" / key).glob(f"*/output/{HYPERPARAMETERS}/{HYPERPARAMETERS_FILE}")
    path.unlink()  # it may be a link to the store's own file
    path.write_bytes(made)
    refused = run_forge(folder, config_home, "apply", code=None)
    assert refused.returncode
    said = refused.stdout + refused.stderr
    assert f"[sweep] sweep/small: the best of its 3 trials is trial {best(searched)} (search_bpb bits_per_byte" in said
    assert "remedy [sweep]: `forge apply --force sweep/MODEL` picks anew" in said


def test_a_trial_that_was_left_out_is_found(copy: Path, config_home: Path) -> None:
    """A search of fewer trials than the commit asks for: the best of those may well be another."""
    record = record_of(copy, "sweep/small")
    fewer = {name: digest for name, digest in record.inputs.items() if not name.endswith("-2")}
    forged, attestations = signed(copy, config_home, record.model_copy(update={"inputs": fewer}), Role.TRAINER)
    kept = [body for body in bodies(copy) if not (isinstance(body, Record) and body.step_id == "sweep/small")]
    rewrite(copy, [*kept, forged], attestations, fresh=True)
    assert "is no recorded product of train/small" in told(copy, config_home)


def test_a_report_that_is_damaged_is_found(copy: Path, config_home: Path) -> None:
    digest = record_of(copy, f"evaluate/small.{(best(copy) + 1) % 3}.search").products["report"]
    Store(".forge/store", copy).remove(digest)
    said = told(copy, config_home)
    assert "[bytes]" in said
    assert f"[sweep] sweep/small: the report {digest} of one of its trials could not be read" in said


def test_a_model_that_no_environment_serves_is_the_trial_that_was_picked(copy: Path, config_home: Path) -> None:
    """Its weights are verified, and have passed no gate; also where the pointer is another's by now."""
    (copy / "models" / "deployment.yaml").unlink()
    commit_all(copy, "it is served no more")
    run_forge(copy, config_home, "apply")
    verdict = verdict_of(copy, config_home, "model/small")
    assert [finding.message for finding in verdict.findings] == ["these weights have passed no gate"]
    assert record_of(copy, f"train/small.{best(copy)}").products["weights"] == verdict.findings[0].object
