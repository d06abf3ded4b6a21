"""Learning from preferences as a step: what it prefers afterwards, what it is measured by, and that an interruption changes
no byte.
"""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.steps.finetune.conftest import LORA, TEMPLATE, preferred, write_conversations
from transformers import AutoModelForCausalLM

from forge.errors import StepError
from forge.steps.finetune import dpo, trainer
from forge.steps.finetune.examples import read_order, read_tokenizer
from forge.steps.finetune.pairs import make_pairs, sequences_of
from forge.steps.finetune.preferences import read_preferences, split
from forge.steps.finetune.template import ChatTemplate
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.train.distributed import World

Make = Callable[..., Any]
MEASURES = ("train_loss", "validation_loss", "base_validation_loss", "validation_reward_margin", "tokens", "answer_tokens")


def log_probabilities(weights: Path, pairs: Any) -> torch.Tensor:
    """Of both answers of each pair, one sequence at a time, by transformers' own model: [pairs, 2]."""
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    rows = []
    for pair in pairs:
        row = []
        for answer in (pair.chosen, pair.rejected):
            with torch.no_grad():
                logits = model(torch.tensor([pair.prompt + answer])).logits[0].double().log_softmax(-1)
            places = range(len(pair.prompt), len(pair.prompt) + len(answer))
            row.append(sum(float(logits[place - 1, token]) for place, token in zip(places, answer, strict=True)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def pairs_of(attempt: Any) -> tuple[Any, Any]:
    """The pairs that an attempt learns from, and those that it is measured on."""
    template = ChatTemplate(TEMPLATE, with_system=False, subject="Model/tiny")
    parts = split(read_preferences(attempt.tokens), 0.1)
    tokenizer = read_tokenizer(attempt.tokenizer)
    return tuple(make_pairs(part, template, tokenizer, 64, 2) for part in (parts.train, parts.validation))


@pytest.mark.parametrize("adapter", [None, LORA])
def test_what_was_chosen_is_preferred_afterwards(new_preferring: Make, adapter: Any) -> None:
    attempt = new_preferring(adapter=adapter, training={"tokens": 64 * 8 * 40, "batch_tokens": 64 * 8})
    metrics = attempt.run()
    learnt, held_out = pairs_of(attempt)
    before, after = (log_probabilities(folder, [*learnt, *held_out]) for folder in (attempt.base, attempt.weights))
    gained = (after - before)[:, 0] - (after - before)[:, 1]
    assert (gained[: len(learnt)] > 0).double().mean() > 0.9
    here = (after - before)[len(learnt) :]
    assert metrics["validation_reward_margin"] == pytest.approx(float(0.1 * (here[:, 0] - here[:, 1]).mean()), abs=1e-5)
    assert metrics["validation_reward_accuracy"] == float((here[:, 0] > here[:, 1]).double().mean())
    assert metrics["validation_chosen_reward"] == pytest.approx(float(0.1 * here[:, 0].mean()), abs=1e-5)
    likelier = (after[len(learnt) :, 0] > after[len(learnt) :, 1]).double().mean()
    assert metrics["validation_likelier_chosen"] == float(likelier)
    assert (metrics["pairs"], metrics["validation_pairs"]) == (len(learnt), len(held_out))


@pytest.mark.parametrize(("loss_type", "expected"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 1 / (2 * 0.2) ** 2)])
def test_the_first_loss_is_that_of_a_model_that_is_its_own_reference(
    new_preferring: Make, loss_type: str, expected: float
) -> None:
    """And TRL's loss of a step is ours of the same pairs, whichever type: the held-out ones are the learnt ones here."""
    training = {"tokens": 64 * 4 * 2, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
    parameters = {"beta": 0.2, "loss_type": loss_type}
    one = new_preferring("one", training={**training, "tokens": 64 * 4}, parameters=parameters)
    assert one.run()["train_loss"] == pytest.approx(expected, abs=1e-5)
    two = new_preferring("two", training=training, parameters=parameters)
    metrics = two.run()
    assert metrics["base_validation_loss"] == pytest.approx(expected)
    learnt, _ = pairs_of(two)
    order = read_order(len(learnt), 7, 4)
    second = [learnt[index] for index in order[2:]]
    lesson = dpo.Comparisons(learnt, second, order, 2, 1, beta=0.2, loss_type=loss_type, subject="Model/tiny")
    losses = []
    for folder in (two.base, one.weights):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            losses.append(lesson.measure(model, World(0, 1, torch.device("cpu")), lambda: None)["loss"])
    assert metrics["train_loss"] == pytest.approx(losses[1], rel=1e-4)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("adapter", [None, LORA])
def test_stopped_anywhere_it_ends_with_the_same_bytes(
    new_preferring: Make, adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new_preferring("whole", adapter=adapter)
    expected = whole.run()
    again = new_preferring("again", adapter=adapter)
    again.run()
    assert again.weights_digest() == whole.weights_digest()
    first = new_preferring("cut", adapter=adapter)
    stop = StopRequest()
    original = trainer.Finetuning.on_log

    def stopping(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 5:
            stop._signalled = True
        original(self, args, state, control, **others)

    monkeypatch.setattr(trainer.Finetuning, "on_log", stopping)
    with pytest.raises(StoppedError, match="after step 5 of 12; a checkpoint is written"):
        first.run(stop)
    monkeypatch.undo()
    second = new_preferring("cut", number=2, adapter=adapter)
    metrics = second.run()
    assert metrics["resumed_from_step"] == 5
    assert second.weights_digest() == whole.weights_digest()
    assert {name: metrics[name] for name in MEASURES} == {name: expected[name] for name in MEASURES}
    third = new_preferring("cut", number=3, adapter=adapter)
    assert third.run()["resumed_from_step"] == 12
    assert third.weights_digest() == whole.weights_digest()


def test_an_adapters_dropout_is_what_the_spec_says(new_preferring: Make) -> None:
    """TRL's default would switch it off without a word."""
    training = {"tokens": 64 * 4 * 3, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
    digests = set()
    for dropout in (0.0, 0.5):
        adapter = {"lora": {**LORA["lora"], "dropout": dropout}}
        attempt = new_preferring(str(dropout), adapter=adapter, training=training)
        attempt.run()
        digests.add(attempt.weights_digest())
    assert len(digests) == 2


def test_in_bfloat16_the_reference_is_computed_as_the_policy_is(new_preferring: Make) -> None:
    """Before the first step they are the same model: whatever rounding does, it does to both, so the margin is 0."""
    training = {"tokens": 64 * 4, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}, "precision": "bfloat16"}
    assert new_preferring(training=training).run()["train_loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_asked_to_stop_while_the_reference_reads_it_leaves_nothing_behind(
    new_preferring: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained yet, so nothing is kept; the next attempt ends with the same bytes."""
    whole = new_preferring("whole")
    whole.run()
    stop = StopRequest()
    original = dpo.DPOTrainer.compute_ref_log_probs

    def stopping(self: Any, model: Any, inputs: Any) -> Any:
        stop._signalled = True
        return original(self, model, inputs)

    monkeypatch.setattr(dpo.DPOTrainer, "compute_ref_log_probs", stopping)
    with pytest.raises(StoppedError, match="while measuring, after step 0"):
        new_preferring("cut").run(stop)
    monkeypatch.undo()
    second = new_preferring("cut", number=2)
    assert not second.checkpoints.exists()
    assert second.run()["resumed_from_step"] == 0
    assert second.weights_digest() == whole.weights_digest()


def test_a_process_that_is_killed_leaves_a_run_that_goes_on(new_preferring: Make) -> None:
    training = {"tokens": 64 * 4 * 90, "checkpoint_every_tokens": 64 * 4 * 5}
    whole = new_preferring("whole", training=training)
    whole.run()
    first = new_preferring("cut", training=training)
    process = first.start()
    deadline = time.monotonic() + 60
    while not any("checkpoint step" in event.get("message", "") for event in first.events()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    second = new_preferring("cut", number=2, training=training)
    assert second.run()["resumed_from_step"] > 0
    assert second.weights_digest() == whole.weights_digest()


def test_a_checkpoint_holds_what_the_reference_said_and_no_pickle(new_preferring: Make) -> None:
    attempt = new_preferring()
    attempt.run()
    newest = max(attempt.checkpoints.iterdir())
    assert {path.name for path in newest.iterdir()} == {
        "manifest.json",
        "state.json",
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "reference.safetensors",
    }
    learnt, _ = pairs_of(attempt)
    read = sorted(set(read_order(len(learnt), 7, 24)))
    found = load_file(newest / "reference.safetensors")["log_probabilities"]
    expected = log_probabilities(attempt.base, [learnt[index] for index in read])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    left = {path.name for path in (attempt.root / "scratch").rglob("*") if path.is_file()}
    assert left == {path.name for path in newest.iterdir()}


def test_the_operations_of_the_reference_are_counted_once_a_pair(new_preferring: Make) -> None:
    one, two = (new_preferring(f"{steps}", training={"tokens": 64 * 4 * steps}) for steps in (36, 72))
    metrics = [attempt.run() for attempt in (one, two)]
    assert [each["epochs"] for each in metrics] == [72 / metrics[0]["pairs"], 144 / metrics[0]["pairs"]]
    per_token = metrics[0]["flops_per_second"] / metrics[0]["tokens_per_second"]
    learnt, _ = pairs_of(one)
    reference = sum(each.num_tokens for each in learnt) * per_token / 3
    for each in metrics:
        assert each["flops"] == pytest.approx(each["tokens"] * per_token + reference)
    assert "reference" in metrics[0]["flops_formula"]


def test_pairs_are_padded_as_two_sequences(new_preferring: Make) -> None:
    learnt, _ = pairs_of(new_preferring())
    ids, labels, mask = sequences_of(learnt[:2], 2)
    assert ids.shape[0] == 4
    assert int(mask.sum()) == sum(each.num_tokens for each in learnt[:2])
    assert ((labels != -100).sum(1)).tolist() == [len(each.chosen) for each in learnt[:2]] + [
        len(each.rejected) for each in learnt[:2]
    ]


def test_a_base_whose_weights_are_no_numbers_is_refused_with_the_place(new_preferring: Make, tmp_path: Path) -> None:
    attempt = new_preferring()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((attempt.base / "config.json").read_bytes())
    tensors = load_file(attempt.base / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(StepError, match=r"not a finite number|not finite"):
        new_preferring("broken", base=broken).run()


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_last_checkpoint(new_preferring: Make) -> None:
    schedule = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}
    optimizer = {"lr": 1e30, "gradient_clip_norm": None}
    training = {"optimizer": optimizer, "schedule": schedule, "checkpoint_every_tokens": 64 * 4}
    attempt = new_preferring(training=training)
    with pytest.raises(StepError, match=r"expected finite numbers"):
        attempt.run()
    assert [path.name for path in attempt.checkpoints.iterdir()] == ["step-00000001-attempt-1"]
    assert not (attempt.weights / "model.safetensors").exists()


def test_a_fault_is_named_by_the_path_that_the_commit_has(new_preferring: Make, tmp_path: Path) -> None:
    folder = write_conversations(tmp_path / "bad", preferred("q", "a", "b"), preferred("q", "a", "a "))
    sources = {"00000.jsonl": "models/x/preferences/first.jsonl"}
    with pytest.raises(StepError, match=r"^models/x/preferences/first\.jsonl:2: chosen and rejected are the same text"):
        new_preferring(tokens=folder, sources=sources).run()


def test_what_is_overridden_is_there_in_trl() -> None:
    """Under another name it would run again: tell somebody, apply a template of its own, or ask a model that has changed."""
    overridden = {name for name, value in vars(dpo.QuietTrainer).items() if callable(value)}
    assert overridden == {"_send_telemetry", "create_model_card", "_prepare_dataset", "_precompute_ref_logps"}
    assert all(hasattr(dpo.DPOTrainer, name) for name in overridden)
