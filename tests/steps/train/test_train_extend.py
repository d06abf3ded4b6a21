"""A run of more tokens that goes on from a shorter one's checkpoint: the bytes of a run from scratch, or a refusal."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.steps.train.conftest import SEQUENCE_LENGTH, Attempt

from forge.canonical import digest_of_bytes
from forge.contract.checkpoints import CHECKPOINT_GLOB, checkpoint_name, newest_checkpoint
from forge.contract.manifest import manifest_of
from forge.contract.messages import StepResult
from forge.errors import StepError
from forge.steps.train.checkpoint import artifact_of, load_checkpoint, verify_checkpoint
from forge.steps.train.model import LlamaForCausalLM

BATCH = 256
SCHEDULE = {"name": "wsd", "warmup_tokens": 600, "decay_tokens": 5000}
KEYS = {tokens: f"sha256:{tokens:064d}" for tokens in (10_000, 20_000, 30_000, 40_000, 100_000)}
LAST_SHARED = 59
"""Of 20,000 tokens (79 steps of 256): the decay starts at 15,224, inside step 60, before its middle."""

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, tokens_folder: Path, tokenizer_folder: Path) -> Attempt:
    """A finished run of 20k, for the tests that change nothing in its folders."""
    fields = {"training": {"schedule": SCHEDULE, "tokens": 20_000}, "settings": {"checkpoint_every_tokens": BATCH * 20}}
    attempt = Attempt(tmp_path_factory.mktemp("short"), tokens_folder, tokenizer_folder, key=KEYS[20_000], **fields)
    attempt.run()
    return attempt


@pytest.fixture
def make(new_attempt: Make) -> Make:
    """An attempt at a run of so many tokens: ``make(40_000, "name", continues=folder)``."""

    def attempt(budget: int, name: str | None = None, /, *, training: dict[str, Any] | None = None, **fields: Any) -> Any:
        asked = {"schedule": SCHEDULE, **(training or {}), "tokens": budget}
        settings = {"checkpoint_every_tokens": BATCH * 20}
        fields = {"key": KEYS[budget], "settings": settings, **fields}
        return new_attempt(name or f"from-scratch-{budget}", training=asked, **fields)

    return attempt


def finish(attempt: Any) -> StepResult:
    process = attempt.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return StepResult.model_validate(attempt.result())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_20k_extended_to_40k_equals_40k_from_scratch(make: Make, precision: str) -> None:
    short, whole = (make(tokens, training={"precision": precision}) for tokens in (20_000, 40_000))
    short.run()
    expected = whole.run()
    state = verify_checkpoint(short.byproduct)
    assert (state.step, state.training_tokens, state.key) == (LAST_SHARED, 20_000, KEYS[20_000])
    longer = make(40_000, "longer", training={"precision": precision}, continues=short.byproduct)
    metrics = longer.run()
    assert metrics["resumed_from_step"] == LAST_SHARED
    assert longer.weights_digest() == whole.weights_digest()
    assert longer.weights_digest() != short.weights_digest()
    for name in ("train_loss", "validation_loss", "tokens", "optimizer_steps"):
        assert metrics[name] == expected[name]


def test_two_ranks_extended_equal_two_ranks_from_scratch_and_the_result_says_what_was_continued(make: Make) -> None:
    short, whole = make(10_000, processes=2), make(20_000, processes=2)
    assert finish(short).byproducts == {"checkpoint": "checkpoint"}
    assert finish(whole).continued is None
    longer = make(20_000, "longer", processes=2, continues=short.byproduct)
    result = finish(longer)
    assert longer.weights_digest() == whole.weights_digest()
    assert result.metrics["resumed_from_step"] == verify_checkpoint(short.byproduct).step > 0
    assert result.continued is not None
    assert result.continued.model_dump() == {
        "key": KEYS[10_000],
        "checkpoint": artifact_of(short.byproduct),
        "tokens": 10_000,
    }


def test_a_chain_of_continuations_equals_the_run_from_scratch(make: Make) -> None:
    whole = make(40_000)
    whole.run()
    before = None
    for tokens in (20_000, 30_000, 40_000):
        link = make(tokens, f"chain-{tokens}", continues=before)
        link.run()
        before = link.byproduct
    assert link.weights_digest() == whole.weights_digest()
    kept, known = (load_checkpoint(attempt.byproduct) for attempt in (link, whole))
    assert {name: set(group) for name, group in kept.groups.items()} == {n: set(g) for n, g in known.groups.items()}
    assert all((kept.groups[g][n] == known.groups[g][n]).all() for g in known.groups for n in known.groups[g])


def test_killed_while_it_continues_it_goes_on_from_its_own_checkpoint_to_the_same_end(make: Make, short: Attempt) -> None:
    whole = make(100_000)
    whole.run()
    attempt = make(100_000, "longer", continues=short.byproduct)
    process = attempt.start()
    deadline = time.monotonic() + 60
    while not list(attempt.checkpoints.glob("step-????????-attempt-1")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    again = make(100_000, "longer", number=2)  # the checkpoint of the shorter run is gone by now
    result = finish(again)
    assert result.metrics["resumed_from_step"] > LAST_SHARED
    assert again.weights_digest() == whole.weights_digest()
    assert result.continued is not None, "what an earlier attempt continued is still true of the weights"
    assert result.continued.key == KEYS[20_000]
    assert result.byproducts == {"checkpoint": "checkpoint"}


def test_no_token_is_read_twice_and_none_is_left_out(
    make: Make, make_tokens: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that reach the model are counted: every id of the data once an epoch, before and after it is continued."""
    windows, length = 100, SEQUENCE_LENGTH
    stream = [300 + window for window in range(windows) for _ in range(length)]  # each window has an id of its own
    folder = make_tokens([[*stream, 2]], [[300, 301, 2]])
    read: list[int] = []
    real = LlamaForCausalLM.forward

    def counted(self: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():  # a step, no validation
            read.extend(inputs.flatten().tolist())
        return real(self, inputs, *given, **named)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    short = make(20_000, tokens=folder)
    short.run()
    shared, rest = read[: LAST_SHARED * BATCH], read[LAST_SHARED * BATCH :]
    assert len(rest) == (79 - LAST_SHARED) * BATCH
    read.clear()
    make(40_000, "longer", tokens=folder, continues=short.byproduct).run()
    together = shared + read
    assert len(together) == 157 * BATCH
    of_an_epoch = Counter(stream)
    epochs = [together[start : start + len(stream)] for start in range(0, len(together), len(stream))]
    assert len(epochs) == 13
    assert all(Counter(epoch) == of_an_epoch for epoch in epochs[:-1])
    assert max(Counter(epochs[-1]).values()) == length, "a window of the last epoch was read twice"
    assert together[: len(shared) + len(rest)] == shared + rest, (
        "the longer run reads what the shorter one read after the branch"
    )
    read.clear()
    make(40_000, tokens=folder).run()
    assert together == read, "from scratch the same ids are read in the same order"


def test_without_a_decay_the_last_step_is_kept_and_more_tokens_within_it_train_no_step(make: Make) -> None:
    flat = {"schedule": {"name": "wsd", "warmup_tokens": 600, "decay_tokens": 0}}
    short = make(20_000, training=flat)
    short.run()
    assert verify_checkpoint(short.byproduct).step == 79
    same = make(20_000, "same", training=flat)
    same.continues = short.byproduct
    rounded = make(20_000, "rounded", training=flat, key=KEYS[10_000], continues=short.byproduct)
    request = rounded.request()
    request.parameters["training"]["tokens"] = 79 * BATCH
    rounded.request = lambda: request
    metrics = rounded.run()
    assert (metrics["resumed_from_step"], metrics["optimizer_steps"]) == (79, 79)
    assert rounded.weights_digest() == short.weights_digest()
    with pytest.raises(StepError, match=r"training\.tokens is unchanged"):
        same.run()


def test_a_run_in_flight_is_continued_from_its_newest_shared_checkpoint(make: Make) -> None:
    """What the control plane copies when a commit raises the tokens of a step that runs."""
    whole, running = make(40_000), make(20_000)
    whole.run()
    running.run()
    scratch = running.root / "scratch"
    names = [path.relative_to(scratch).as_posix() for path in scratch.glob(CHECKPOINT_GLOB)]
    assert newest_checkpoint(names, LAST_SHARED) == f"before-decay/{checkpoint_name(LAST_SHARED, 1)}"
    assert newest_checkpoint(names) == f"checkpoints/{checkpoint_name(79, 1)}"
    early = make(20_000, "early", settings={"checkpoint_every_tokens": BATCH * 7})
    early.run()
    shutil.rmtree(early.root / "scratch" / "before-decay")
    for source in (scratch / newest_checkpoint(names, LAST_SHARED), next(early.checkpoints.glob("step-*77-*"), None)):
        assert source is not None
        copied = shutil.copytree(source, whole.root / source.name)
        longer = make(40_000, f"longer-{source.name}", continues=copied)
        if source.name == checkpoint_name(LAST_SHARED, 1):
            longer.run()
            assert longer.weights_digest() == whole.weights_digest()
        else:  # further on the rates were those of a run of 20k
            with pytest.raises(StepError, match=r"stands at step 77, after the decay of its run of 20,000 tokens began"):
                longer.run()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": {"seed": 8}}, "parameters other than training.tokens"),
        ({"training": {"schedule": {"name": "cosine", "warmup_tokens": 600}}}, "parameters other than training.tokens"),
        ({"training": {"batch_tokens": 512}}, "parameters other than training.tokens"),
        ({"architecture": {"rope_theta": 5000.0}}, "parameters other than training.tokens"),
        ({"parameters": {"chat_template": "x"}}, "parameters other than training.tokens"),
        ({"tokens": "elsewhere"}, "an input"),
        ({"threads": 2}, "computes other bits (threads was 1, is 2)"),
        ({"budget": 10_000}, "was lowered from 20,000 to 10,000"),
        ({"continues_digest": "sha256:" + "0" * 64}, "its files are artifact sha256:"),
        ({"continues": Path("absent")}, "is damaged"),
    ],
)
def test_what_is_no_exact_continuation_is_refused_with_both_sides_and_the_remedy(
    make: Make, short: Attempt, change: dict[str, Any], said: str
) -> None:
    change = dict(change)
    budget = change.pop("budget", 40_000)
    threads = change.pop("threads", 1)
    tokens = change.pop("tokens", None)
    longer = make(budget, "longer", **{"continues": short.byproduct, "continues_digest": "sha256:" + "1" * 64, **change})
    if "continues_digest" not in change:
        longer.continues_digest = artifact_of(short.byproduct)
    request = longer.request()
    resources = request.resources.model_copy(update={"threads": threads})
    inputs = dict(request.inputs)
    if tokens:
        inputs["tokens"] = inputs["tokens"].model_copy(update={"digest": "sha256:" + "9" * 64})
    request = request.model_copy(update={"resources": resources, "inputs": inputs})
    longer.request = lambda: request
    with pytest.raises(StepError) as told:
        longer.run()
    message = str(told.value)
    assert said in message
    assert KEYS[budget] in message
    assert (KEYS[20_000] in message) or "continues" in change
    assert message.endswith("train from scratch with `forge apply --force train/tiny`")
    assert not longer.weights.exists()


def test_a_refused_continuation_is_a_failure_of_the_input(make: Make, short: Attempt) -> None:
    longer = make(40_000, "longer", training={"seed": 8}, continues=short.byproduct)
    process = longer.start()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert longer.failure()["cause"] == "input"


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_not_continued(make: Make, file: str, short: Attempt, tmp_path: Path) -> None:
    digest = artifact_of(short.byproduct)
    copied = shutil.copytree(short.byproduct, tmp_path / "copied")
    data = bytearray((copied / file).read_bytes())
    data[-3] ^= 1
    (copied / file).write_bytes(data)
    longer = make(40_000, "longer", continues=copied, continues_digest=digest)
    with pytest.raises(
        StepError, match=r"cannot continue from the checkpoint of .*: (checkpoint copied is damaged|its files are)"
    ):
        longer.run()


def test_a_checkpoint_whose_state_was_forged_is_not_continued(make: Make, short: Attempt, tmp_path: Path) -> None:
    """Whole by its own manifest and by the artifact's digest, but it stands where no checkpoint of its run may."""
    forged = shutil.copytree(short.checkpoints / checkpoint_name(79, 1), tmp_path / "forged")
    state = json.loads((forged / "state.json").read_bytes())
    for fields, said in (
        ({"training_tokens": 39_000}, "its position"),
        ({"training_tokens": 20_000}, "after the decay"),
        ({"lineage": None}, "did not say what a checkpoint descends from"),
    ):
        change = {**state, "sequences": 8, **fields}
        (forged / "state.json").write_text(json.dumps(change))
        files = {path.name: path.read_bytes() for path in forged.iterdir() if path.name != "manifest.json"}
        listed = manifest_of({name: (len(data), digest_of_bytes(data)) for name, data in files.items()})
        (forged / "manifest.json").write_bytes(listed.to_bytes())
        with pytest.raises(StepError, match=said):
            make(40_000, f"longer-{said[:5]}", continues=forged).run()


def test_an_own_checkpoint_that_is_further_on_wins_even_over_one_that_is_gone(make: Make, short: Attempt) -> None:
    first = make(40_000, "longer", continues=short.byproduct)
    first.run()
    for number, continues in ((2, short.byproduct), (3, short.root / "gone")):
        again = make(40_000, "longer", number=number, continues=continues, continues_digest=artifact_of(short.byproduct))
        assert again.run()["resumed_from_step"] == 157
        assert again.weights_digest() == first.weights_digest()
    said = " ".join(event.get("message", "") for event in again.events())
    assert "going on from checkpoint step-00000157-attempt-1 of this run itself" in said


def test_a_checkpoint_of_the_engine_before_still_resumes(make: Make) -> None:
    """Its state has neither lineage nor what came with it."""
    first = make(20_000)
    first.run()
    shutil.rmtree(first.root / "scratch" / "before-decay")
    for path in first.checkpoints.iterdir():
        state = json.loads((path / "state.json").read_bytes())
        kept = {name: state[name] for name in state if name not in ("lineage", "training_tokens", "continued")}
        (path / "state.json").write_text(json.dumps(kept))
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}
        listed = manifest_of({name: (len(data), digest_of_bytes(data)) for name, data in files.items()})
        (path / "manifest.json").write_bytes(listed.to_bytes())
    second = make(20_000, number=2)
    assert second.run()["resumed_from_step"] == 79
    assert second.weights_digest() == first.weights_digest()
    assert not second.byproduct.exists()
    said = [event["message"] for event in second.events() if "message" in event]
    assert any("no checkpoint from before the decay (step 59) is kept" in text for text in said)


@pytest.mark.parametrize("damage", ["damaged", "gone", "half-written"])
def test_a_run_resumed_after_the_decay_began_makes_no_byproduct_of_a_checkpoint_that_is(make: Make, damage: str) -> None:
    first = make(20_000)
    first.run()
    kept = first.root / "scratch" / "before-decay" / checkpoint_name(LAST_SHARED, 1)
    if damage == "damaged":
        data = (kept / "model.safetensors").read_bytes()
        (kept / "model.safetensors").unlink()
        (kept / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "gone":
        shutil.rmtree(kept)
    else:
        kept.rename(kept.with_name(kept.name + ".tmp"))
    second = make(20_000, number=2)
    second.run()
    assert second.weights_digest() == first.weights_digest()
    assert not second.byproduct.exists()
    said = " ".join(event.get("message", "") for event in second.events())
    assert "no checkpoint from before the decay (step 59) is kept" in said
    assert ("is damaged: model.safetensors" in said) is (damage == "damaged")


def test_a_run_resumed_after_the_decay_began_still_makes_the_byproduct(make: Make) -> None:
    first = make(20_000)
    first.run()
    second = make(20_000, number=2)
    second.run()
    assert artifact_of(second.byproduct) == artifact_of(first.byproduct)
    shutil.rmtree(first.checkpoints)
    third = make(20_000, number=3)  # from scratch, past the kept checkpoint of attempt 1
    third.run()
    assert artifact_of(third.byproduct) == artifact_of(first.byproduct)


def test_a_cosine_keeps_nothing_and_says_nothing(make: Make) -> None:
    attempt = make(10_000, training={"schedule": {"name": "cosine", "warmup_tokens": 600}})
    attempt.run()
    assert not attempt.byproduct.exists()
    assert not any("before the decay" in event.get("message", "") for event in attempt.events())
