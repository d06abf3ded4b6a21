"""Searches before admission: the best trial is picked once more, and every trial has to be what its commit asks for."""

import shutil
from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of as bodies
from tests.admission.test_attacks import record_of, rewrite, signed, verdict_of
from tests.conftest import DEPLOYMENT, commit_all, new_repository, run_forge, write_small
from tests.made import lay_made
from tests.plan.test_withdrawn import withdrawing
from tests.searching import SWEEP, write_search

from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE, Hyperparameters
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


def test_a_draw_that_lies_outside_of_its_space_is_not_released(searched: Path, tmp_path: Path, config_home: Path) -> None:
    """The sweep step of a trial was tampered with; whatever its figure, its values are none that the commit searches."""
    refused = apply_with(searched, tmp_path, config_home, "sweep/small.1", {"training.optimizer.lr": 0.02})
    assert "[sweep] sweep/small.1: it chose another point than that of its grid" in refused
    first = apply_with(searched, tmp_path / "first", config_home, "sweep/small.0", {"training.optimizer.lr": 0.006})
    assert "[sweep] sweep/small.0: it is to take the values that are written, and took others" in first


def apply_with(searched: Path, folder: Path, config_home: Path, step_id: str, values: dict[str, float]) -> str:
    """Apply where a sweep step has made something else; returns why nothing was released."""
    folder = folder / "repository"
    folder.mkdir(parents=True)
    write(folder)
    lay_made(searched, folder, (*OF_THE_SEARCH[:3], step_id))
    key = record_of(searched, step_id).key.removeprefix("sha256:")
    (path,) = (folder / ".forge" / "work" / key).glob(f"*/output/{HYPERPARAMETERS}/{HYPERPARAMETERS_FILE}")
    path.unlink()
    path.write_bytes(Hyperparameters(values=values).to_bytes())
    refused = run_forge(folder, config_home, "apply", code=None)
    assert refused.returncode
    return refused.stdout + refused.stderr


def test_a_search_that_was_extended_is_one_search_in_the_chain(copy: Path, config_home: Path, tmp_path: Path) -> None:
    """Also where what it picks is what it had picked before: the earlier search chose by fewer trials."""
    path = copy / "models" / "sweep.yaml"
    path.write_text(path.read_text() + SWEEP[SWEEP.index("    - sampler") :].replace("[1.0e-3, 1.0e-2]", "[2.0e-2]"))
    commit_all(copy, "another round")
    run_forge(copy, config_home, "apply", "--force", "release/small-local")
    verdict = verdict_of(copy, config_home)
    assert verdict.holds
    said = [check.message for check in verdict.checks if check.rule == "sweep"]
    assert [line.split(": trial")[0] for line in said if "picked the best" in line] == [
        "sweep/small picked the best of 4 trials"
    ]
    run_forge(copy, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("Search for Model/small") == 1


def test_another_models_search_with_the_same_values_is_no_part_of_a_chain(copy: Path, config_home: Path) -> None:
    """Two models that name one sweep choose equal numbers; what one of them has lost is not the other's matter."""
    model = (copy / "models" / "model.yaml").read_text().replace("name: small}", "name: other}").replace("seed: 5", "seed: 6")
    (copy / "models" / "other.yaml").write_text(model)
    deployment = DEPLOYMENT.replace("small-local", "other").replace("environment: local", "environment: other")
    (copy / "models" / "other-deployment.yaml").write_text(deployment.replace("Model/small", "Model/other"))
    commit_all(copy, "another model of the same sweep")
    run_forge(copy, config_home, "apply")
    Store(".forge/store", copy).remove(record_of(copy, f"evaluate/small.{(best(copy) + 1) % 3}.search").products["report"])
    assert not verdict_of(copy, config_home).holds
    other = verdict_of(copy, config_home, "release/other")
    assert other.holds
    assert not [check for check in other.checks if "train/small" in check.message or "sweep/small " in check.message]


def test_a_withdrawal_of_what_it_chose_by_reaches_the_release(copy: Path, config_home: Path) -> None:
    (copy / "policies" / "withdrawn.yaml").write_text(withdrawing("EvalSuite/search"))
    commit_all(copy, "the search's suite is withdrawn")
    refused = run_forge(copy, config_home, "apply", code=None)
    assert refused.returncode
    verdict = verdict_of(copy, config_home)
    assert [item.subject for item in verdict.withdrawn] == ["EvalSuite/search"]
    impact = run_forge(copy, config_home, "impact", "EvalSuite/search").stdout
    assert "sweep/small" in impact
    assert "local" in impact.split("serv")[-1]


def test_a_trial_that_diverged_is_not_picked_and_a_model_that_did_passes_no_gate(
    applied: Path, tmp_path: Path, config_home: Path
) -> None:
    folder = tmp_path / "repository"
    write(folder)
    sweep = SWEEP.replace("[1.0e-3, 1.0e-2]", "[1.0e+37]")
    (folder / "models" / "sweep.yaml").write_text(sweep)
    model = (folder / "models" / "model.yaml").read_text().replace("lr: 5.0e-3", "lr: 1.0e-9, gradient_clip_norm: null")
    (folder / "models" / "model.yaml").write_text(model)
    commit_all(folder, "a trial that diverges, beside one that learns nothing")
    lay_made(applied, folder, OF_THE_SEARCH[:3])
    said = run_forge(folder, config_home, "apply", code=None).stderr
    assert "train/small.1: done in" in said
    assert "diverged_at_step 2" in said
    assert best(folder) == 0
    seeds = SWEEP.replace("training.optimizer.lr: {choices: [1.0e-3, 1.0e-2]}", "training.seed: {choices: [6]}")
    (folder / "models" / "sweep.yaml").write_text(seeds + "  trial: {training.optimizer.lr: 5.0e-3}\n")
    (folder / "models" / "model.yaml").write_text(model.replace("lr: 1.0e-9", "lr: 1.0e+37"))
    commit_all(folder, "the model itself diverges, and its trials do not")
    done = run_forge(folder, config_home, "apply", code=1)
    assert "train/small: done in" in done.stderr
    assert "verdict NO-GO" in done.stderr


@pytest.mark.parametrize(
    ("step_id", "change"),
    [
        ("sweep/small.1", {"parameters": {"pick": "next", "sampler": {"name": "grid"}, "space": [], "number": -1}}),
        ("sweep/small", {"parameters": {"pick": "best"}}),
        ("sweep/small", {"products": {}}),
        ("train/small.1", {"products": {}}),
        ("evaluate/small.1.search", {"products": {}}),
    ],
)
def test_records_of_a_search_that_nobody_signed_end_no_verification(
    copy: Path, config_home: Path, tmp_path: Path, step_id: str, change: dict[str, object]
) -> None:
    """Whoever writes the ref can put anything in a record's place: it is a finding, and no traceback."""
    forged = record_of(copy, step_id).model_copy(update=change)
    kept = [body for body in bodies(copy) if not (isinstance(body, Record) and body.step_id == step_id)]
    rewrite(copy, [*kept[:-1], forged, kept[-1]], fresh=True)
    assert not verdict_of(copy, config_home).holds
    done = run_forge(copy, config_home, "report", "release/local", "--out", str(tmp_path / "report"), code=None)
    assert "Traceback" not in done.stderr
