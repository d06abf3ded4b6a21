"""Bases whose embedding has more rows than their tokenizer has tokens, as most that are trained on devices have."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.conftest import RunStep
from tests.steps.finetune.conftest import LORA, Tuning, chat, preferred, write_conversations
from tests.steps.test_evaluate_step import GENERATE, ROLLING, ROWS, write_tasks
from tests.steps.train.conftest import VOCAB_SIZE, Attempt, chain_documents, write_tokenizer, write_tokens
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from forge.errors import StepError
from forge.steps.train.data import open_corpus, validation_batches

PADDED = VOCAB_SIZE + 64
STILL = {"optimizer": {"lr": 1e-12}, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
"""One step that changes nothing to speak of."""
MakeBase = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"), chain_documents(60, seed=1), chain_documents(6, seed=2))


@pytest.fixture
def make_base(tmp_path: Path) -> MakeBase:
    """A base as transformers writes it. ``loud``: wherever it stands, it finds a row of the padding likeliest."""

    def make(*, tied: bool = False, loud: bool = False) -> Path:
        torch.manual_seed(1)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(
            vocab_size=PADDED,
            max_position_embeddings=128,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=tied,
            **sizes,
        )
        model = LlamaForCausalLM(config)
        if loud:
            with torch.no_grad():  # one of the two is large for almost any hidden state
                model.lm_head.weight[VOCAB_SIZE + 5] = 1000 * torch.randn(32)
                model.lm_head.weight[PADDED - 1] = -model.lm_head.weight[VOCAB_SIZE + 5]
        folder = tmp_path / "base"
        model.save_pretrained(folder)
        return folder

    return make


def chats_for(objective: str, folder: Path) -> Path:
    rows = [
        chat(f"what is {number}?", "even")
        if objective == "sft"
        else preferred(f"what is {number}?", *(("even", "odd") if number % 2 == 0 else ("odd", "even")))
        for number in range(40)
    ]
    return write_conversations(folder, *rows)


def logits_of(folder: Path) -> torch.Tensor:
    """transformers' own, of tokens of the tokenizer: [3, 64, rows]."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(VOCAB_SIZE, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_continued_with_all_its_rows_and_the_loss_of_transformers(
    make_base: MakeBase, tokens_folder: Path, tokenizer_folder: Path, tmp_path: Path, tied: bool
) -> None:
    base = make_base(tied=tied)
    attempt = Attempt(tmp_path / "run", tokens_folder, tokenizer_folder, base=base, training={"tokens": 256, **STILL})
    metrics = attempt.run()
    corpus, summed, narrow, count = open_corpus(tokens_folder), 0.0, 0.0, 0
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for batch in validation_batches(corpus.validation, 32, 4):
        with torch.no_grad():
            logits = theirs(batch.inputs).logits.flatten(0, 1)
        summed += cross_entropy(logits, batch.targets.flatten(), reduction="sum").item()
        narrow += cross_entropy(logits[:, :VOCAB_SIZE], batch.targets.flatten(), reduction="sum").item()
        count += batch.targets.numel()
    assert metrics["base_validation_loss"] == pytest.approx(summed / count, rel=1e-5)
    assert narrow < 0.999 * summed  # it is the loss over all rows, padding among them
    expected = summed / math.log(2) / corpus.validation.split.bytes
    assert metrics["base_validation_bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert metrics["parameters"] == sum(parameter.numel() for parameter in theirs.parameters())

    before, after = logits_of(base), logits_of(attempt.weights)
    assert before.shape == after.shape == (3, 64, PADDED)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert json.loads((attempt.weights / "config.json").read_text())["vocab_size"] == PADDED
    kept, now = (load_file(folder / "model.safetensors") for folder in (base, attempt.weights))
    assert kept.keys() == now.keys()
    assert torch.allclose(now["model.embed_tokens.weight"][VOCAB_SIZE:], kept["model.embed_tokens.weight"][VOCAB_SIZE:])


@pytest.mark.parametrize(("objective", "adapter"), [("sft", None), ("sft", LORA), ("dpo", LORA)])
def test_it_is_tuned_after_it_was_continued(
    make_base: MakeBase, tokens_folder: Path, tokenizer_folder: Path, tmp_path: Path, objective: str, adapter: Any
) -> None:
    first = Attempt(tmp_path / "first", tokens_folder, tokenizer_folder, base=make_base(), training={"tokens": 256 * 30})
    learnt = first.run()
    assert learnt["validation_loss"] < float(learnt["base_validation_loss"]) - 1
    second = Tuning(
        tmp_path / "second",
        chats_for(objective, tmp_path / "chats"),
        tokenizer_folder,
        base=first.weights,
        objective=objective,
        adapter=adapter,
        training={"tokens": 64 * 4 * 6, "optimizer": {"lr": 1e-3}},
    )
    metrics = second.run()
    assert metrics["validation_loss"] < metrics["base_validation_loss"]
    assert logits_of(second.weights).shape == (3, 64, PADDED)
    config = json.loads((second.weights / "config.json").read_text())
    tensors = load_file(second.weights / "model.safetensors")
    assert config["vocab_size"] == len(tensors["model.embed_tokens.weight"]) == len(tensors["lm_head.weight"]) == PADDED
    assert metrics["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    if adapter is not None:
        assert torch.equal(tensors["lm_head.weight"], load_file(first.weights / "model.safetensors")["lm_head.weight"])


def test_what_is_no_token_is_not_generated_and_evaluated_as_transformers_does(
    make_base: MakeBase, tokens_folder: Path, tokenizer_folder: Path, tmp_path: Path, run_step: RunStep
) -> None:
    attempt = Attempt(
        tmp_path / "run", tokens_folder, tokenizer_folder, base=make_base(loud=True), training={"tokens": 256, **STILL}
    )
    attempt.run()
    likeliest = logits_of(attempt.weights).argmax(-1)
    assert likeliest.min() >= VOCAB_SIZE
    model, tokenizer = (each.from_pretrained(attempt.weights) for each in (AutoModelForCausalLM, AutoTokenizer))
    asked = tokenizer("what is 4?", return_tensors="pt", add_special_tokens=False).input_ids
    for how in ({"do_sample": False}, {"do_sample": True, "temperature": 2.0, "top_k": 0}):
        given = model.generate(asked, max_new_tokens=30, **how)
        assert given.max() < VOCAB_SIZE

    tasks = write_tasks(tmp_path / "tasks", ROLLING, GENERATE)
    names = ["small_bpb", "small_generate"]
    parameters = {"tasks": names, "batch_size": 4, "bootstrap_iters": 2}
    done = run_step("evaluate", parameters, {"weights": attempt.weights, "tasks": tasks})
    report = json.loads((done.product("report") / "report.json").read_text())["tasks"]
    assert set(report) == set(names)
    nats = size = 0.0
    for row in ROWS:
        text = f"{row['context']} {row['choices'][0]}"
        ids = [2, *tokenizer(text, add_special_tokens=False).input_ids]
        with torch.no_grad():
            nats += cross_entropy(model(torch.tensor([ids[:-1]])).logits[0], torch.tensor(ids[1:]), reduction="sum").item()
        size += len(text.encode())
    assert report["small_bpb"]["metrics"]["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_a_reader_that_samples_padding_gets_no_text_of_it(tokenizer_folder: Path) -> None:
    """As vLLM decodes, token by token; in between and at the beginning."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    ids = tokenizer.encode("what is it").ids
    stream = DecodeStream(skip_special_tokens=True)
    mixed = [VOCAB_SIZE, *ids[:4], PADDED - 1, VOCAB_SIZE + 3, *ids[4:], VOCAB_SIZE]
    assert "".join(stream.step(tokenizer, number) or "" for number in mixed) == "what is it"


def test_ids_that_leave_some_out_are_refused(tokens_folder: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tokenizer_folder, tmp_path / "gaps")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(piece for piece, number in vocabulary.items() if number == VOCAB_SIZE - 1)] = VOCAB_SIZE + 30
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(StepError, match="holds 512 tokens, whose ids go up to 542"):
        Attempt(tmp_path / "run", tokens_folder, folder).run()
