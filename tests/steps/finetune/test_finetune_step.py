"""Fine-tuning as a step: what it learns, what it leaves, and that an interruption changes no byte."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.steps.deterministic import COUNTED_AS_INTEGERS, NothingRefused
from tests.steps.finetune.conftest import LORA, TEMPLATE, chat, write_conversations
from tests.steps.train.conftest import ARCHITECTURE, let_choose, write_qwen_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from forge.contract.control_tokens import BOS_ID, EOS_ID
from forge.errors import StepError
from forge.spec.architecture import Architecture
from forge.steps.finetune import sft, trainer
from forge.steps.finetune.conversations import read_conversations, split
from forge.steps.finetune.examples import make_examples, read_order, read_tokenizer
from forge.steps.finetune.model import _experts_forward
from forge.steps.finetune.template import ChatTemplate
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.train.data import TokensMeta
from forge.steps.train.export import model_config
from forge.steps.train.model import build_model

Make = Callable[..., Any]
ONE_STEP = {"tokens": 64 * 4, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}


def test_it_learns_the_answers_and_stops_after_them(new_tuning: Make) -> None:
    attempt = new_tuning(training={"tokens": 64 * 4 * 80, "optimizer": {"lr": 1e-2}})
    metrics = attempt.run()
    assert metrics["validation_loss"] < 0.4 < 3 < metrics["base_validation_loss"]
    tokenizer = AutoTokenizer.from_pretrained(attempt.weights)
    model = AutoModelForCausalLM.from_pretrained(attempt.weights)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what is 4?"}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer.encode(asked, add_special_tokens=False)])
    answer = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    assert answer[-1] == 2
    assert tokenizer.decode(answer[:-1]) in ("even", "odd")
    assert metrics["answer_tokens"] < metrics["tokens"] / 3


@pytest.mark.parametrize(
    ("objective", "family", "adapter"),
    [("sft", "qwen2", None), ("sft", "mistral", LORA), ("dpo", "qwen3", LORA)],
)
def test_a_relative_of_llama_is_tuned_as_its_own_class(
    new_tuning: Make, new_preferring: Make, tmp_path: Path, objective: str, family: str, adapter: Any
) -> None:
    base, architecture = tmp_path / "base", Architecture.model_validate({**ARCHITECTURE, "family": family})
    base.mkdir()
    meta = TokensMeta(schema_version=1, dtype="uint16", vocab_size=512, eos_token_id=EOS_ID, bos_token_id=BOS_ID, splits={})
    (base / "config.json").write_text(json.dumps(model_config(architecture, meta, "float32")))
    before = build_model(architecture, 512, 3).state_dict()
    save_file(before, base / "model.safetensors")
    tokenizer = {"tokenizer": write_qwen_tokenizer(tmp_path)} if family == "qwen2" else {}
    attempt = {"sft": new_tuning, "dpo": new_preferring}[objective](base=base, adapter=adapter, **tokenizer)
    attempt.run()
    after = load_file(attempt.weights / "model.safetensors")
    changed = {name.split(".", 3)[-1] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    adapted = {f"self_attn.{name}.weight" for name in LORA["lora"]["targets"]}
    assert changed == (adapted if adapter else {name.split(".", 3)[-1] for name in before})
    theirs, info = AutoModelForCausalLM.from_pretrained(attempt.weights, output_loading_info=True)
    assert type(theirs).__name__ == f"{family.capitalize()}ForCausalLM"
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = build_model(architecture, 512, 3)
    ours.load_state_dict(after)
    tokens = torch.randint(512, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_the_same_request_gives_the_same_bytes(new_tuning: Make, adapter: Any) -> None:
    one, two = (new_tuning(name, adapter=adapter) for name in ("one", "two"))
    one.run(), two.run()
    assert one.weights_digest() == two.weights_digest()
    other = new_tuning("three", adapter=adapter, training={"seed": 8})
    other.run()
    assert other.weights_digest() != one.weights_digest()


@pytest.mark.parametrize("adapter", [None, LORA])
def test_stopped_anywhere_it_ends_with_the_same_bytes(new_tuning: Make, adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter has dropout, so its random numbers have to go on as well."""
    whole = new_tuning("whole", adapter=adapter)
    expected = whole.run()
    first = new_tuning("cut", adapter=adapter)
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
    second = new_tuning("cut", number=2, adapter=adapter)
    metrics = second.run()
    assert metrics["resumed_from_step"] == 5
    assert second.weights_digest() == whole.weights_digest()
    assert {name: metrics[name] for name in ("train_loss", "validation_loss", "base_validation_loss", "tokens")} == {
        name: expected[name] for name in ("train_loss", "validation_loss", "base_validation_loss", "tokens")
    }


def test_what_is_measured_has_a_deterministic_sum_on_a_device_too(new_tuning: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses the loss of rows of places on CUDA under deterministic algorithms, and takes that of places."""
    shapes: list[tuple[int, int]] = []
    real = sft.cross_entropy

    def seen(logits: torch.Tensor, targets: torch.Tensor, **named: Any) -> torch.Tensor:
        shapes.append((logits.ndim, targets.ndim))
        return real(logits, targets, **named)

    monkeypatch.setattr(sft, "cross_entropy", seen)
    new_tuning(training=ONE_STEP).run()
    assert set(shapes) == {(2, 1)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_killed_after_its_last_step_it_only_writes_the_weights(
    new_tuning: Make, new_preferring: Make, objective: str, precision: str
) -> None:
    make = {"sft": new_tuning, "dpo": new_preferring}[objective]
    fields = {"adapter": LORA, "training": {"precision": precision}}
    whole, again = make(**fields), make(number=2, **fields)
    before, after = whole.run(), again.run()
    assert (before["resumed_from_step"], after["resumed_from_step"]) == (0, 12)
    assert again.weights_digest() == whole.weights_digest()
    passing = {"resumed_from_step", "tokens_per_second", "flops_per_second"}
    assert {name: after[name] for name in after.keys() - passing} == {name: before[name] for name in before.keys() - passing}


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_base_is_measured_as_what_was_made_of_it(new_tuning: Make, new_preferring: Make, objective: str) -> None:
    """A rate of nearly 0 makes the base of it: what differs then is how it was computed."""
    attempt = {"sft": new_tuning, "dpo": new_preferring}[objective](
        training={**ONE_STEP, "precision": "bfloat16", "optimizer": {"lr": 1e-12}}
    )
    metrics = attempt.run()
    if objective == "sft":
        assert metrics["validation_loss"] == metrics["base_validation_loss"]
    else:
        assert (metrics["validation_chosen_reward"], metrics["validation_rejected_reward"]) == (0.0, 0.0)


def test_a_checkpoint_holds_no_pickle_and_a_damaged_one_is_set_aside(new_tuning: Make) -> None:
    whole = new_tuning(training={"checkpoint_every_tokens": 64 * 4 * 5})
    whole.run()
    names = {path.name for folder in whole.checkpoints.iterdir() for path in folder.iterdir()}
    assert names == {"manifest.json", "state.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors"}
    newest = max(whole.checkpoints.iterdir())
    (newest / "model.safetensors").write_bytes(b"damaged")
    again = new_tuning(number=2, training={"checkpoint_every_tokens": 64 * 4 * 5})
    assert again.run()["resumed_from_step"] == 10
    assert again.weights_digest() == whole.weights_digest()
    assert any("set aside" in event.get("message", "") for event in again.events())


def test_an_adapter_is_merged_and_leaves_what_it_does_not_touch(new_tuning: Make) -> None:
    attempt = new_tuning(adapter=LORA)
    metrics = attempt.run()
    before, after = load_file(attempt.base / "model.safetensors"), load_file(attempt.weights / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name.rsplit(".", 2)[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj"}
    assert metrics["trained_parameters"] == 2 * 4 * (32 + 32 + 32 + 16)
    assert metrics["validation_loss"] < metrics["base_validation_loss"]


def test_the_loss_is_that_of_the_answers_alone(new_tuning: Make) -> None:
    """The first step's, against the base's own logits: the mean over the answers' tokens of the whole batch."""
    attempt = new_tuning(training=ONE_STEP)
    metrics = attempt.run()
    tokenizer = read_tokenizer(attempt.tokenizer)
    template = ChatTemplate(TEMPLATE, with_system=False, subject="Model/tiny")
    parts = split(read_conversations(attempt.tokens), 0.1)
    examples = make_examples(parts.train, template, tokenizer, 64, 2)
    assert (len(parts.train), len(parts.validation)) == (metrics["conversations"], metrics["validation_conversations"])
    model = AutoModelForCausalLM.from_pretrained(attempt.base, dtype=torch.float32)

    def loss_of(ids: torch.Tensor, labels: torch.Tensor) -> float:
        with torch.no_grad():
            logits = model(ids).logits
        return float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"))

    first = [examples[index] for index in read_order(len(examples), 7, 4)]
    summed = sum(loss_of(torch.tensor([each.input_ids]), torch.tensor([each.labels])) for each in first)
    assert metrics["train_loss"] == pytest.approx(summed / sum(each.num_answer_tokens for each in first), rel=1e-5)
    with_questions = sum(loss_of(torch.tensor([each.input_ids]), torch.tensor([each.input_ids])) for each in first)
    assert with_questions > 3 * summed
    events = [event for event in attempt.events() if event.get("learning_rate")]
    assert events[-1]["loss"] == metrics["train_loss"]
    assert {"gradient_norm", "tokens_per_second", "memory_bytes"} <= events[-1].keys()


def test_the_exported_template_renders_without_generation_marks(new_tuning: Make) -> None:
    attempt = new_tuning(training=ONE_STEP)
    attempt.run()
    template = json.loads((attempt.weights / "tokenizer_config.json").read_text())["chat_template"]
    assert "generation -%}" not in template.replace("add_generation_prompt -%}", "")
    tokenizer = AutoTokenizer.from_pretrained(attempt.weights)
    text = tokenizer.apply_chat_template(chat("hi", "ho")["messages"], tokenize=False)
    assert text == "<s>user\nhi</s><s>assistant\nho</s>"


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_last_checkpoint(new_tuning: Make) -> None:
    schedule = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}
    optimizer = {"lr": 1e30, "gradient_clip_norm": None}
    training = {"optimizer": optimizer, "schedule": schedule, "checkpoint_every_tokens": 64 * 4}
    attempt = new_tuning(training=training)
    with pytest.raises(StepError, match=r"at step 2 of 12 the loss is .* and the gradient norm nan; expected finite numbers"):
        attempt.run()
    assert [path.name for path in attempt.checkpoints.iterdir()] == ["step-00000001-attempt-1"]
    assert not (attempt.weights / "model.safetensors").exists()


@pytest.mark.parametrize(("adapter", "lr", "is_finite"), [(None, 1e30, True), (LORA, 1e12, True), (LORA, 1e30, False)])
def test_a_trial_of_a_search_that_diverges_ends_with_the_weights_before_that_step(
    new_tuning: Make, adapter: Any, lr: float, is_finite: bool
) -> None:
    """Those of an adapter are merged, which may exceed what float32 holds: then they are exported so."""
    schedule = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}
    optimizer = {"lr": 1e-3, "gradient_clip_norm": None}
    attempt = new_tuning(training={"optimizer": optimizer, "schedule": schedule}, adapter=adapter)
    let_choose(attempt, {"training.optimizer.lr": lr})
    metrics = attempt.run()
    assert metrics["optimizer_steps"] == metrics["diverged_at_step"] - 1 == 1
    assert metrics["tokens"] * 12 == pytest.approx(new_tuning("other").run()["tokens"], rel=0.2)
    tensors = load_file(attempt.weights / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values()) is is_finite
    assert any("this trial has diverged" in event.get("message", "") for event in attempt.events())


def test_a_process_that_is_killed_leaves_a_run_that_goes_on(new_tuning: Make) -> None:
    training = {"tokens": 64 * 4 * 200, "checkpoint_every_tokens": 64 * 4 * 5}
    whole = new_tuning("whole", training=training)
    whole.run()
    first = new_tuning("cut", training=training)
    process = first.start()
    deadline = time.monotonic() + 60
    while not any("checkpoint step" in event.get("message", "") for event in first.events()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    second = new_tuning("cut", number=2, training=training)
    assert second.run()["resumed_from_step"] > 0
    assert second.weights_digest() == whole.weights_digest()


def test_nothing_is_told_to_others_and_no_model_card_is_left(new_tuning: Make) -> None:
    """What is overridden has to be there in TRL: under another name it would run again."""
    overridden = {name for name, value in vars(sft.QuietTrainer).items() if callable(value)}
    assert overridden == {"_send_telemetry", "create_model_card"}
    assert all(hasattr(sft.SFTTrainer, name) for name in overridden)
    attempt = new_tuning(training=ONE_STEP)
    attempt.run()
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    left = {path.name for path in (attempt.root / "scratch").rglob("*") if path.is_file()}
    assert left == {"manifest.json", "state.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors"}


def test_an_unknown_conversation_stops_it_before_anything_is_trained(new_tuning: Make, tmp_path: Any) -> None:
    folder = write_conversations(tmp_path / "bad", chat("a", "b"), chat("a"))
    with pytest.raises(StepError, match=r"00000\.jsonl:2: the assistant says nothing"):
        new_tuning(tokens=folder).run()


@pytest.mark.parametrize(
    ("objective", "experts", "adapter"),
    [("sft", False, None), ("sft", True, LORA), ("dpo", False, None), ("dpo", False, LORA)],
)
def test_nothing_is_asked_for_that_a_device_refuses(
    new_tuning: Make, new_preferring: Make, base_of_experts: Path, objective: str, experts: bool, adapter: Any
) -> None:
    fields = {
        "adapter": adapter,
        "training": {**ONE_STEP, "precision": "bfloat16"},
        **({"base": base_of_experts} if experts else {}),
    }
    attempt = {"sft": new_tuning, "dpo": new_preferring}[objective](**fields)
    with NothingRefused(COUNTED_AS_INTEGERS if experts else frozenset()) as called:
        attempt.run()
    assert {"embedding", "mm", *([] if adapter else ["embedding_dense_backward"])} <= called.seen


def test_what_a_device_refuses_is_found() -> None:
    numbers = torch.rand(2, 3, 3, requires_grad=True)
    with NothingRefused():
        numbers.long().cumsum(0)
        for refused in (
            lambda: numbers.cumsum(0),
            lambda: numbers.long().cumsum(0, dtype=torch.float32),
            lambda: numbers.median(0),
            lambda: torch.bincount(torch.arange(3), torch.rand(3)),
            lambda: torch.nn.functional.pad(numbers, (1, 1), "reflect").sum().backward(),
        ):
            with pytest.raises(AssertionError, match="is refused on CUDA"):
                refused()


def test_experts_by_pretrainings_code_are_transformers_own(base_of_experts: Path) -> None:
    experts = AutoModelForCausalLM.from_pretrained(base_of_experts).model.layers[0].mlp.experts
    x_th, weights_tk = torch.randn(7, 32), torch.rand(7, 2)
    experts_tk = torch.stack([torch.randperm(4)[:2] for _ in range(7)])
    found = _experts_forward(experts, x_th, experts_tk, weights_tk)
    torch.testing.assert_close(found, experts(x_th, experts_tk, weights_tk))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = _experts_forward(experts, x_th, experts_tk, weights_tk)
    assert not torch.equal(rounded, found)
    torch.testing.assert_close(rounded, found, rtol=0.05, atol=1e-3)


def test_of_a_mixture_of_experts_the_attention_is_adapted(new_tuning: Make, base_of_experts: Path) -> None:
    attempt = new_tuning(adapter=LORA, base=base_of_experts)
    metrics = attempt.run()
    before, after = load_file(base_of_experts / "model.safetensors"), load_file(attempt.weights / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name.rsplit(".", 2)[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj"}
    assert metrics["validation_loss"] < metrics["base_validation_loss"]
    assert metrics["active_parameters"] == metrics["parameters"] - 2 * 2 * 3 * 32 * 64


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (None, "no load-balancing loss"),
        ({"lora": {**LORA["lora"], "targets": ["q_proj", "down_proj"]}}, "has down_proj once for"),
    ],
)
def test_what_would_spoil_a_mixture_of_experts_is_refused(
    new_tuning: Make, base_of_experts: Path, adapter: Any, message: str
) -> None:
    with pytest.raises(StepError, match=f"a mixture of 4 experts; .*{message}"):
        new_tuning(adapter=adapter, base=base_of_experts).run()
