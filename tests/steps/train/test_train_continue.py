"""Training that begins with another model's weights: what it starts from, what it reads, and which bases are refused."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.steps.train.conftest import ARCHITECTURE, CONFIG, Attempt, chain_documents, manifest_of_folder, write_tokens
from tests.steps.train.test_train_stop import signal_before
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from forge.errors import StepError
from forge.spec.rope import LinearRope
from forge.spec.training import exact
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.train import export, loop
from forge.steps.train.base import read_architecture
from forge.steps.train.data import Replay, open_corpus, training_batch
from forge.steps.train.job import read_job
from forge.steps.train.mixture import num_replayed, place_of
from forge.steps.train.start import initial_model

Make = Callable[..., Any]
BATCH = 256
SCHEDULE = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokens_folder: Path, tokenizer_folder: Path) -> Attempt:
    """A pretrained model; nobody changes its folder."""
    attempt = Attempt(tmp_path_factory.mktemp("base"), tokens_folder, tokenizer_folder, training={"tokens": BATCH * 40})
    (attempt.folder / "metrics.json").write_text(json.dumps(attempt.run()))
    return attempt


@pytest.fixture(scope="module")
def other_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that the base has not seen: random ids, which a chain's model does not predict."""
    random_ids = random.Random(3)
    documents = [[*(random_ids.randrange(259, 512) for _ in range(60)), 2] for _ in range(50)]
    return write_tokens(tmp_path_factory.mktemp("other"), documents, documents[:5])


def metrics_of(attempt: Attempt) -> dict[str, Any]:
    return dict(json.loads((attempt.folder / "metrics.json").read_text()))


def test_it_begins_with_the_weights_and_the_loss_of_its_base(new_attempt: Make, base: Attempt) -> None:
    training = {"tokens": BATCH, "optimizer": {"lr": 1e-12}, "schedule": SCHEDULE}
    attempt = new_attempt(base=base.weights, training=training)
    metrics = attempt.run()
    expected = metrics_of(base)["validation_loss"]
    assert metrics["base_validation_loss"] == expected
    assert metrics["validation_loss"] == pytest.approx(expected, abs=1e-6)
    before, after = (load_file(each / "model.safetensors") for each in (base.weights, attempt.weights))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())


def test_it_learns_new_data_from_there_and_says_what_it_forgot(new_attempt: Make, base: Attempt, other_tokens: Path) -> None:
    fields = {"base": base.weights, "tokens": other_tokens, "training": {"tokens": BATCH * 40, "optimizer": {"lr": 3e-3}}}
    plain = new_attempt("plain", replay=base.tokens, fraction=0.001, **{**fields, "training": {**fields["training"]}})
    mixed = new_attempt("mixed", replay=base.tokens, fraction=0.5, **fields)
    forgot, kept = plain.run(), mixed.run()
    assert forgot["base_replay_validation_loss"] == kept["base_replay_validation_loss"] == metrics_of(base)["validation_loss"]
    assert forgot["validation_loss"] < forgot["base_validation_loss"] - 0.5
    assert forgot["replay_validation_loss"] > forgot["base_replay_validation_loss"] + 0.3
    assert kept["replay_validation_loss"] < forgot["replay_validation_loss"] - 0.3
    assert (kept["replay_tokens"], kept["tokens"]) == (BATCH * 20, BATCH * 40)
    messages = [event.get("message") for event in mixed.events()]
    assert messages[:2] == ["validation of the base", "validation of the base, replayed data"]
    assert [message for message in messages if message][-2:] == ["validation", "validation, replayed data"]
    assert not any("tokens" in event for event in mixed.events()[:2])  # no point of the run's curve


def test_transformers_gives_the_logits_of_the_export_and_of_a_base_that_it_wrote(
    new_attempt: Make, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """The base is a folder as transformers saves it, in bfloat16, with untied embeddings."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_theta=700.0,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(1)
    folder = tmp_path / "theirs"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    attempt = new_attempt(base=folder, training={"tokens": BATCH, "optimizer": {"lr": 1e-12}, "schedule": SCHEDULE})
    attempt.run()
    theirs, info = AutoModelForCausalLM.from_pretrained(attempt.weights, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(512, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = theirs(tokens).logits, written(tokens).logits
    assert expected.std() > 0.1
    assert (logits - expected).abs().max().item() <= 1e-5 * expected.abs().max().item()


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-attention": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "attention_factor": 1.4},
    "yarn-deepseek": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.8,
        "truncate": False,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [8, 64])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_scaled_rotary_embeddings_are_those_of_transformers_below_the_original_context_and_above(
    new_attempt: Make, tmp_path: Path, name: str, length: int, family: str
) -> None:
    """transformers is asked for each length anew, as it may compute other frequencies then."""
    folder, tokens = tmp_path / "theirs", torch.randint(512, (3, length), generator=torch.Generator().manual_seed(0))
    write_scaled(folder, family, SCALINGS[name])
    written = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = written(tokens).logits
        ours = initial_model(read_job(new_attempt(base=folder).request()), 512)(tokens)
    assert isinstance(ours, torch.Tensor)
    assert (ours - expected).abs().max().item() <= 1e-5 * expected.abs().max().item()
    original = SCALINGS[name].get("original_max_position_embeddings", 64 // SCALINGS[name]["factor"])
    assert 8 < original < 64


def write_scaled(folder: Path, family: str, scaling: dict[str, Any]) -> None:
    """A base of transformers with scaled rotary embeddings."""
    torch.manual_seed(1)
    turned: dict[str, Any] = {**CONFIG, "rope_parameters": {"rope_theta": 700.0, **scaling}}
    if family == "llama":
        LlamaForCausalLM(LlamaConfig(**turned)).save_pretrained(folder)
    else:
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        MixtralForCausalLM(MixtralConfig(**turned, **experts, head_dim=8)).save_pretrained(folder)  # yarn asks for head_dim


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_rotary_embeddings_are_exported_as_they_were(new_attempt: Make, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "theirs"
    write_scaled(folder, "llama", SCALINGS[name])
    written = AutoModelForCausalLM.from_pretrained(folder)
    attempt = new_attempt(base=folder, training={"tokens": BATCH, "optimizer": {"lr": 1e-12}, "schedule": SCHEDULE})
    tokens = torch.randint(512, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = written(tokens).logits
    plain = edited(folder, tmp_path / "plain", rope_parameters={"rope_theta": 700.0, "rope_type": "default"})
    with torch.no_grad():
        unscaled = AutoModelForCausalLM.from_pretrained(plain)(tokens).logits
    assert (unscaled - expected).abs().max().item() > 1e-2 * expected.abs().max().item()
    attempt.run()
    theirs = AutoModelForCausalLM.from_pretrained(attempt.weights)
    assert theirs.config.rope_parameters == written.config.rope_parameters
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_the_old_spelling_of_a_scaled_rotary_embedding_is_the_same_model(
    new_attempt: Make, tokenizer_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(tmp_path / "theirs")
    scaling = {"type": "linear", "factor": 4.0}
    old = edited(tmp_path / "theirs", tmp_path / "old", rope_scaling=scaling, rope_theta=500.0, rope_parameters="absent")
    found = read_architecture(old)
    assert (found.rope_theta, found.rope_scaling) == (500.0, LinearRope(rope_type="linear", factor=4.0))
    expected = AutoModelForCausalLM.from_pretrained(old).config.rope_parameters
    assert (expected["rope_theta"], expected["rope_type"], expected["factor"]) == (500.0, "linear", 4.0)


def test_weights_in_several_files_are_the_same_base(
    new_attempt: Make, base: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in several files and read from them, by this engine and by transformers, nothing changes but the files."""
    training = {"tokens": BATCH, "schedule": SCHEDULE}
    one = new_attempt("one", base=base.weights, training=training)
    expected = one.run()
    monkeypatch.setattr(export, "SHARD_BYTES", 30_000)
    folders = []
    for name in ("several", "again"):
        attempt = new_attempt(name, base=base.weights, training=training)
        attempt.run()
        folders.append(attempt.weights)
    assert manifest_of_folder(folders[0]).digest == manifest_of_folder(folders[1]).digest
    files = sorted(path.name for path in folders[0].glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    assert {path.name for path in folders[0].iterdir()} == {
        *(path.name for path in one.weights.iterdir() if path.name != "model.safetensors"),
        "model.safetensors.index.json",
        *files,
    }
    whole, parts = (AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (one.weights, folders[0]))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    next_of = [
        new_attempt(name, base=folder, training=training).run()
        for name, folder in (("next-one", one.weights), ("next-several", folders[0]))
    ]
    assert next_of[0]["train_loss"] == next_of[1]["train_loss"] != expected["train_loss"]


def test_an_index_that_does_not_fit_its_files_is_refused(
    new_attempt: Make, base: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"tokens": BATCH, "schedule": SCHEDULE}
    monkeypatch.setattr(export, "SHARD_BYTES", 30_000)
    attempt = new_attempt(base=base.weights, training=training)
    attempt.run()
    index = json.loads((attempt.weights / "model.safetensors.index.json").read_text())
    norm, files = "model.norm.weight", sorted(set(index["weight_map"].values()))
    elsewhere = next(file for file in files if file != index["weight_map"][norm])

    def refused(label: str, **places: Any) -> str:
        folder = shutil.copytree(attempt.weights, tmp_path / label)
        weight_map = {name: file for name, file in (index["weight_map"] | places.get("places", {})).items() if file}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places.get("all", weight_map)}))
        with pytest.raises(StepError) as told:
            new_attempt(label, base=folder, training=training).run()
        return str(told.value)

    assert f"holds {norm}, which lies in {elsewhere}" in refused("moved", places={norm: elsewhere})
    assert f"holds {norm}, which lies nowhere by" in refused("unlisted", places={norm: None})
    assert "says that more lies in " in refused("invented", places={"more": elsewhere})
    assert "expected a .safetensors file beside it" in refused("outside", places={norm: "../model-00001-of-00001.safetensors"})
    assert "cannot be read as safetensors" in refused("absent", places={"more": "model-00009-of-00009.safetensors"})
    assert "expected the file of each tensor" in refused("empty", all={})


def test_it_has_the_bases_chat_template_unless_it_names_one(new_attempt: Make, tmp_path: Path, base: Attempt) -> None:
    folder = shutil.copytree(base.weights, tmp_path / "templated")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "base: {{ messages[0].content }}"}))
    training = {"tokens": BATCH, "schedule": SCHEDULE}
    for name, parameters, expected in (("base", {}, "base: hi"), ("own", {"chat_template": "own"}, "own")):
        attempt = new_attempt(name, base=folder, training=training, parameters=parameters)
        attempt.run()
        tokenizer = AutoTokenizer.from_pretrained(attempt.weights)
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == expected


def test_a_base_with_a_template_file_lends_that(new_attempt: Make, tmp_path: Path, base: Attempt) -> None:
    folder = shutil.copytree(base.weights, tmp_path / "templated")
    (folder / "chat_template.jinja").write_text("from a file")
    attempt = new_attempt(base=folder, training={"tokens": BATCH, "schedule": SCHEDULE})
    attempt.run()
    assert json.loads((attempt.weights / "tokenizer_config.json").read_text())["chat_template"] == "from a file"


def test_killed_it_ends_with_the_same_weights_and_metrics(new_attempt: Make, base: Attempt, other_tokens: Path) -> None:
    fields = {"base": base.weights, "tokens": other_tokens, "replay": base.tokens}
    fields |= {"training": {"tokens": BATCH * 300, "precision": "bfloat16"}}
    fields |= {"settings": {"checkpoint_every_tokens": BATCH * 8}}
    expected = new_attempt("whole", **fields).run()
    attempt = new_attempt("killed", **fields)
    process = attempt.start()
    deadline = time.monotonic() + 60
    while not list(attempt.checkpoints.glob("step-????????-attempt-1")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    last = new_attempt("killed", number=2, **fields)
    found = last.run()
    assert found["resumed_from_step"] > 0
    changes = {name for name, value in found.items() if expected[name] != value}
    assert changes <= {"resumed_from_step", "tokens_per_second", "flops_per_second", "checkpoint_stall_seconds"}
    assert last.weights_digest() == new_attempt("whole", **fields).weights_digest()


def test_two_ranks_read_the_mixture_that_one_reads(new_attempt: Make, base: Attempt, other_tokens: Path) -> None:
    fields = {"base": base.weights, "tokens": other_tokens, "replay": base.tokens, "fraction": 0.3}
    alone = new_attempt("alone", **fields).run()
    together = new_attempt("together", processes=2, **fields)
    assert together.start().wait() == 0
    found = together.result()["metrics"]
    for name in ("train_loss", "validation_loss", "replay_validation_loss", "base_validation_loss"):
        assert found[name] == pytest.approx(alone[name], rel=1e-5)


def test_more_tokens_extend_to_the_bytes_of_a_run_from_its_base(new_attempt: Make, base: Attempt, other_tokens: Path) -> None:
    keys = {tokens: f"sha256:{tokens:064d}" for tokens in (5_000, 9_000)}
    schedule = {"name": "wsd", "warmup_tokens": 300, "decay_tokens": 1500}
    fields: dict[str, Any] = {"base": base.weights, "tokens": other_tokens, "replay": base.tokens, "fraction": 0.3}

    def run_of(name: str, tokens: int, **more: Any) -> Any:
        attempt = new_attempt(name, key=keys[tokens], training={"tokens": tokens, "schedule": schedule}, **fields, **more)
        attempt.run()
        return attempt

    short = run_of("short", 5_000)
    extended = run_of("extended", 9_000, continues=short.byproduct)
    scratch = run_of("scratch", 9_000)
    assert extended.weights_digest() == scratch.weights_digest() != short.weights_digest()


def test_a_stop_while_the_base_is_measured_leaves_earlier_checkpoints_alone(
    new_attempt: Make, base: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_attempt(base=base.weights, settings={"checkpoint_every_tokens": BATCH * 5})
    first.run()
    before = sorted(path.name for path in first.checkpoints.iterdir())
    handler = signal.getsignal(signal.SIGTERM)
    signal_before(monkeypatch, loop, "validation_batches")
    stop = StopRequest()
    try:
        with stop.listening(), pytest.raises(StoppedError, match="before this attempt's first step"):
            new_attempt(number=2, base=base.weights).run(stop)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert sorted(path.name for path in first.checkpoints.iterdir()) == before
    assert new_attempt(number=3, base=base.weights).run()["resumed_from_step"] == 12


def test_what_is_not_continued_says_what_it_said(new_attempt: Make) -> None:
    """A pretraining measures no base: one validation, at its end."""
    attempt = new_attempt()
    metrics = attempt.run()
    assert [event["message"] for event in attempt.events() if "validation" in event.get("message", "")] == ["validation"]
    assert not [name for name in metrics if "base" in name or "replay" in name]


@given(
    total=st.integers(0, 3000),
    fraction=st.floats(1e-4, 0.9999).map(lambda value: exact(round(value, 4))).filter(lambda value: 0 < value < 1),
)
def test_the_mixture_is_exact_at_every_length_and_reads_each_kind_in_order(total: int, fraction: Fraction) -> None:
    places = [place_of(position, fraction) for position in range(total)]
    replayed = [place.position for place in places if place.is_replayed]
    own = [place.position for place in places if not place.is_replayed]
    assert replayed == list(range(num_replayed(total, fraction)))
    assert own == list(range(total - len(replayed)))
    assert len(replayed) == int(total * fraction)


@given(batches=st.lists(st.integers(1, 7), min_size=1, max_size=8), percent=st.integers(1, 99), seed=st.integers(0, 9))
def test_each_token_of_both_kinds_is_counted_however_a_run_is_cut(
    batches: list[int], percent: int, seed: int, tokens_folder: Path, other_tokens: Path
) -> None:
    """Own tokens and replayed ones are read in the order that they would have alone, none twice, none left out."""
    own, other = open_corpus(tokens_folder).train, open_corpus(other_tokens).train
    fraction = exact(percent / 100)
    replay = Replay(other, fraction)
    rows: list[list[int]] = []
    for size in batches:
        rows += training_batch(own, 16, seed, len(rows), size, replay).inputs.tolist()
    count = num_replayed(len(rows), fraction)
    assert sum(map(len, rows)) == 16 * len(rows)
    alone = [
        training_batch(file, 16, seed, 0, number).inputs.tolist() if number else []
        for file, number in ((own, len(rows) - count), (other, count))
    ]
    mixed = [
        [row for position, row in enumerate(rows) if place_of(position, fraction).is_replayed is kind] for kind in (False, True)
    ]
    assert mixed == alone


def test_a_fraction_is_what_is_written() -> None:
    assert [exact(value) for value in (0.2, 0.1, 1e-05)] == [Fraction(1, 5), Fraction(1, 10), Fraction(1, 100_000)]


def edited(base: Path, folder: Path, **changes: Any) -> Path:
    """A base whose config.json has other settings; None takes one away."""
    shutil.copytree(base, folder)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this trainer's model has 'silu' only"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic', which depends on a text's length: up to max_position"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope', which depends on a text's length: one model below"),
        ({"rope_scaling": {"type": "su", "factor": 2}}, "rope_scaling is .*'su'.* that this trainer's model has are"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3"}}, "llama3.factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 8.0, "odd": 1}}, "linear.odd"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 8.0}}, "rope_parameters is"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected a mapping"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"head_dim": 16}, r"q_proj.weight has the shape \[32, 32\], its config.json asks for \[64, 32\]"),
        ({"hidden_size": "absent"}, "lacks hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_hidden_layers": 3}, "9 tensors are missing"),
        ({"num_hidden_layers": 1}, "9 are left over"),
        ({"intermediate_size": 96}, r"has the shape \[.*\], its config.json asks for"),
        ({"tie_word_embeddings": False}, r"1 tensors are missing \(lm_head.weight\)"),
        ({"vocab_size": 511}, "its embedding has 511 rows, fewer than the 512 tokens of the tokenizer"),
        ({"vocab_size": 600}, r"embed_tokens.weight has the shape \[512, 32\], its config.json asks for \[600, 32\]"),
        ({"vocab_size": "512"}, "vocab_size is '512'; expected the number of rows"),
        ({"max_position_embeddings": 16}, "sequence_length is 32, but the model has 16 positions"),
    ],
)
def test_a_base_that_this_trainer_would_not_reproduce_is_refused(
    new_attempt: Make, base: Attempt, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = edited(base.weights, tmp_path / "edited", **changes)
    with pytest.raises(StepError, match=message):
        new_attempt(base=folder).run()


def test_a_base_whose_bytes_are_wrong_is_refused(new_attempt: Make, base: Attempt, tmp_path: Path) -> None:
    tensors = load_file(base.weights / "model.safetensors")
    name = "model.norm.weight"

    def refused(label: str, changed: dict[str, torch.Tensor] | bytes) -> str:
        folder = shutil.copytree(base.weights, tmp_path / label)
        (folder / "model.safetensors").unlink()
        if isinstance(changed, bytes):
            (folder / "model.safetensors").write_bytes(changed)
        else:
            save_file(changed, folder / "model.safetensors")
        with pytest.raises(StepError) as told:
            new_attempt(label, base=folder).run()
        return str(told.value)

    assert "not finite" in refused("nan", {**tensors, name: tensors[name] * float("nan")})
    assert "holds torch.int32" in refused("integers", {**tensors, name: tensors[name].int()})
    assert "cannot be read as safetensors" in refused("pickle", b"\x80\x04" + b"x" * 100)
    assert "cannot be read as safetensors" in refused("cut", (base.weights / "model.safetensors").read_bytes()[:-4])
    tied = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
    assert "left over (lm_head.weight)" in refused("untied", tied)


def test_another_tokenizer_than_the_bases_is_refused(new_attempt: Make, base: Attempt, tmp_path: Path) -> None:
    folder = shutil.copytree(base.weights, tmp_path / "edited")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + " ")
    with pytest.raises(StepError, match="differs from the tokenizer that the tokens were made with"):
        new_attempt(base=folder).run()


def test_a_tokenizer_whose_control_tokens_nobody_could_make_harmless_is_refused(
    new_attempt: Make, base: Attempt, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """It would be looked for after normalisation: a fullwidth spelling passes for it."""
    folder = shutil.copytree(tokenizer_folder, tmp_path / "chatty")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", normalized=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = shutil.copytree(base.weights, tmp_path / "weights", ignore=shutil.ignore_patterns("tokenizer.json"))
    with pytest.raises(StepError, match=r"'<\|im_start\|>' is looked for in text that was normalised before"):
        new_attempt(base=weights, tokenizer=folder).run()


def test_a_tokenizer_with_code_of_its_own_is_refused(
    new_attempt: Make, base: Attempt, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tokenizer_folder, tmp_path / "coded")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(StepError, match="auto_map names code of its own"):
        new_attempt(base=base.weights, tokenizer=folder).run()


def test_a_mixture_without_its_other_data_is_refused(new_attempt: Make, base: Attempt) -> None:
    with pytest.raises(StepError, match="lays out no input 'replay'"):
        new_attempt(base=base.weights, parameters={"replay": {"fraction": 0.5}}).run()


def test_replayed_tokens_of_another_tokenizer_are_refused(new_attempt: Make, base: Attempt, tmp_path: Path) -> None:
    replay = write_tokens(tmp_path / "replay", chain_documents(20, seed=3), chain_documents(3, seed=4))
    meta = json.loads((replay / "meta.json").read_text())
    (replay / "meta.json").write_text(json.dumps({**meta, "vocab_size": 600}))
    with pytest.raises(StepError, match="vocab_size is 600, the model's own data has 512"):
        new_attempt(base=base.weights, replay=replay).run()


def test_a_request_without_its_base_is_refused(new_attempt: Make) -> None:
    with pytest.raises(StepError, match="lays out no input 'base'"):
        new_attempt(parameters={"objective": "continue"}).run()


def test_the_architecture_is_the_bases(new_attempt: Make, base: Attempt) -> None:
    attempt = new_attempt(base=base.weights, training={"tokens": BATCH, "schedule": SCHEDULE})
    attempt.run()
    configs = [json.loads((each / "config.json").read_text()) for each in (base.weights, attempt.weights)]
    assert configs[0] == configs[1]
    assert configs[1]["hidden_size"] == ARCHITECTURE["hidden_size"]


def test_up_to_its_positions_a_dynamic_base_is_the_plain_one(new_attempt: Make, base: Attempt, tmp_path: Path) -> None:
    """What the refusal says; beyond them transformers turns positions otherwise with every length."""
    dynamic = edited(
        base.weights, tmp_path / "dynamic", rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0}
    )
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base.weights, dynamic))
    tokens = torch.randint(512, (1, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(one(tokens[:, :64]).logits, other(tokens[:, :64]).logits)
        assert not torch.allclose(one(tokens).logits[:, :64], other(tokens).logits[:, :64], atol=1e-3)


def test_a_base_whose_settings_have_other_types_is_told_in_one_line(tmp_path: Path) -> None:
    LlamaConfig(**CONFIG).save_pretrained(tmp_path / "theirs")
    wrong = edited(tmp_path / "theirs", tmp_path / "wrong", hidden_size="large", num_hidden_layers=1.5)
    message = r"config\.json: hidden_size is 'large': Input should be .*; num_hidden_layers is 1\.5: "
    with pytest.raises(StepError, match=message) as caught:
        read_architecture(wrong)
    assert "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value)
