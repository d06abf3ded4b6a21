"""The relatives of Llama (Mistral, Qwen2, Qwen3) against transformers' own classes of them, alone and over processes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.train.conftest import ARCHITECTURE, CONFIG, Attempt, write_qwen_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from forge.errors import StepError
from forge.plan.compute import num_parameters
from forge.spec.architecture import Architecture
from forge.spec.rope import LinearRope
from forge.steps.train.base import read_architecture
from forge.steps.train.job import read_job
from forge.steps.train.model import build_model
from forge.steps.train.start import initial_model

Make = Callable[..., Attempt]
BATCH = 256
SHAPE = {**CONFIG, "tie_word_embeddings": True}
THEIRS: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 12},
    "mistral": {"head_dim": 12, "sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
}
"""What a ``config.json`` of each family says that others do not; heads that are not hidden_size / num_attention_heads."""
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
OURS: dict[str, dict[str, Any]] = {
    "mistral": {"family": "mistral", "head_dim": 12},
    "qwen3": {"family": "qwen3", "head_dim": 12},
}
"""Those that are pretrained: a qwen2 has a tokenizer that is made elsewhere."""


@pytest.fixture(scope="module")
def qwen_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


def with_tokenizer_of(family: str, qwen_tokenizer: Path) -> dict[str, Any]:
    return {"tokenizer": qwen_tokenizer} if family == "qwen2" else {}


def written(folder: Path, family: str, **changes: Any) -> Path:
    """A base as transformers saves it; none of its tensors is what a model begins with, biases and norms included."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SHAPE, **THEIRS[family], **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(folder)
    return folder


def some_tokens() -> torch.Tensor:
    return torch.randint(512, (3, 64), generator=torch.Generator().manual_seed(0))


def logits_of(folder: Path) -> torch.Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model(some_tokens()).logits


@pytest.mark.parametrize("family", THEIRS)
def test_a_base_that_transformers_wrote_is_the_same_function_here_and_in_what_is_exported(
    new_attempt: Make, qwen_tokenizer: Path, tmp_path: Path, family: str
) -> None:
    folder = written(tmp_path / "theirs", family)
    expected = logits_of(folder)
    assert expected.std() > 0.1
    schedule = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}
    training = {"tokens": BATCH, "optimizer": {"lr": 1e-12}, "schedule": schedule}
    attempt = new_attempt(base=folder, training=training, **with_tokenizer_of(family, qwen_tokenizer))
    with torch.no_grad():
        ours = initial_model(read_job(attempt.request()), 512)(some_tokens())
    assert isinstance(ours, torch.Tensor)
    assert (ours - expected).abs().max().item() <= 1e-5 * expected.abs().max().item()
    attempt.run()
    assert (logits_of(attempt.weights) - expected).abs().max().item() <= 1e-5 * expected.abs().max().item()
    before, after = (json.loads((each / "config.json").read_text()) for each in (folder, attempt.weights))
    assert before["architectures"] == after["architectures"] == [f"{CLASSES[family]}ForCausalLM"]
    assert load_file(folder / "model.safetensors").keys() == load_file(attempt.weights / "model.safetensors").keys()
    for name, value in AutoConfig.from_pretrained(folder).to_dict().items():
        if name not in {"transformers_version", "dtype", "_name_or_path"} and name in after:
            assert after[name] == value, name


@pytest.mark.parametrize("family", OURS)
def test_a_model_that_is_pretrained_here_learns_and_is_transformers_own_class(
    new_attempt: Make, tmp_path: Path, family: str
) -> None:
    attempt = new_attempt(architecture=OURS[family], training={"tokens": BATCH * 40})
    first = build_model(Architecture.model_validate({**ARCHITECTURE, **OURS[family]}), 512, 7)
    initial = {name: parameter.detach().clone() for name, parameter in first.named_parameters()}
    assert attempt.run()["validation_loss"] < 3.0  # log(512) is 6.2
    exported = load_file(attempt.weights / "model.safetensors")
    assert exported.keys() == initial.keys()
    assert all(not torch.equal(tensor, initial[name]) for name, tensor in exported.items()), "something learnt nothing"
    first.load_state_dict(exported)
    with torch.no_grad():
        ours, theirs = first(some_tokens()), logits_of(attempt.weights)
    assert isinstance(ours, torch.Tensor)
    assert (ours - theirs).abs().max().item() <= 1e-5 * theirs.abs().max().item()


def test_biases_begin_at_0_and_norms_at_1() -> None:
    for family in ("qwen2", "qwen3"):
        model = build_model(Architecture.model_validate({**ARCHITECTURE, "family": family}), 512, 3)
        small = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 1}
        kinds = {"qwen2": ("q_proj.bias", "k_proj.bias", "v_proj.bias"), "qwen3": ("q_norm.weight", "k_norm.weight")}[family]
        assert sum(name.endswith(kinds) for name in small) == 2 * len(kinds)
        assert all(torch.equal(each, torch.full_like(each, 0.0 if "bias" in name else 1.0)) for name, each in small.items())


def test_a_head_of_the_usual_size_has_one_spelling(tmp_path: Path) -> None:
    """``head_dim`` that says what the other numbers give makes no other architecture."""
    folder = written(tmp_path / "theirs", "qwen3", head_dim=8)
    assert json.loads((folder / "config.json").read_text())["head_dim"] == 8
    assert read_architecture(folder).head_dim is None


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_what_a_folder_leaves_out_is_what_transformers_takes_for_it(tmp_path: Path, family: str) -> None:
    """All that is optional goes, but for what would make it another trainer's model."""
    folder = written(tmp_path / "theirs", family)
    kept = {*SHAPE, "model_type", "sliding_window"} - {"initializer_range", "tie_word_embeddings", "num_key_value_heads"}
    sizes = {"hidden_size": 4096, "num_attention_heads": 32}  # those that transformers' default of 32 key/value heads fits
    config = {**json.loads((folder / "config.json").read_text()), **sizes}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name in kept}))
    theirs, ours = AutoConfig.from_pretrained(folder), read_architecture(folder)
    for name in ("num_key_value_heads", "rms_norm_eps", "initializer_range", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.head_size == getattr(theirs, "head_dim", 4096 // 32)


QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""As it is published; the others say as much beside what is changed below."""
QWEN3_06B = {
    **QWEN25_05B,
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
}
NEMO_12B = {
    "model_type": "mistral",
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 131072,
}


@pytest.mark.parametrize(("config", "count"), [(QWEN25_05B, 494_032_768), (QWEN3_06B, 596_049_920), (NEMO_12B, 12_247_782_400)])
def test_configurations_as_they_are_published_are_those_models(config: dict[str, Any], count: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    architecture = read_architecture(tmp_path)
    assert num_parameters(architecture, config["vocab_size"]) == count
    assert architecture.rope_theta == 1e6


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": 4096}, "sliding_window is 4096; this trainer's model has None only"),
        ("mistral", {"sliding_window": "absent"}, "sliding_window is left out, which is 4096; this trainer's model has None"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has 'sliding_attention'"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, num_hidden_layers is 2"),
        ("llama", {"is_causal": False}, "is_causal is False"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("mistral", {"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ("qwen3", {"head_dim": 2**62}, "head_dim is 46116860"),
        ("qwen3", {"max_position_embeddings": 10**13}, "max_position_embeddings is 1000000"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ("qwen3", {"layer_types": "sliding_attention"}, "layer_types has 'sliding_attention'"),
        ("qwen3", {"head_dim": 13}, "head_dim must be even"),
        ("qwen3", {"head_dim": "12"}, "head_dim is '12'"),
        ("qwen2", {"head_dim": 12}, "head_dim says another size"),
        ("qwen2", {"model_type": "llama"}, r"6 are left over \(model.layers.0.self_attn.k_proj.bias"),
        ("mistral", {"model_type": "qwen3", "head_dim": 12}, r"4 tensors are missing \(model.layers.0.self_attn.k_norm.weight"),
        (
            "qwen3",
            {"model_type": "qwen3_moe"},
            "model_type is 'qwen3_moe'; this trainer continues 'llama', 'mistral', 'mixtral'",
        ),
    ],
)
def test_a_relative_that_this_trainer_would_not_reproduce_is_refused(
    new_attempt: Make, tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    folder = written(tmp_path / "theirs", family)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))
    with pytest.raises(StepError, match=message):
        new_attempt(base=folder).run()


@pytest.mark.parametrize(
    ("family", "processes", "settings"),
    [
        ("qwen2", 2, {"parallelism": {"tensor": 2}}),
        ("qwen3", 2, {"parallelism": {"tensor": 2}}),
        ("qwen3", 4, {"parallelism": {"data": "fsdp2", "tensor": 2}}),
    ],
)
def test_ranks_give_the_losses_and_weights_of_one(
    new_attempt: Make, qwen_tokenizer: Path, tmp_path: Path, family: str, processes: int, settings: dict[str, Any]
) -> None:
    """Each rank has heads of its own: what a norm of all heads learns comes from every one of them."""
    fields = {"base": written(tmp_path / "base", family), **with_tokenizer_of(family, qwen_tokenizer)}
    one = new_attempt("one", **fields)
    expected = one.run()
    several = new_attempt("several", processes=processes, settings=settings, **fields)
    found = _result(several)
    for name in ("train_loss", "validation_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    mine, theirs = (load_file(each.weights / "model.safetensors") for each in (one, several))
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-3


def test_a_base_whose_rope_scaling_is_empty_has_the_other_spelling(tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    folder = written(tmp_path / "theirs", "llama", rope_parameters=scaled)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": {}}))
    found = read_architecture(folder)
    assert (found.rope_theta, found.rope_scaling) == (5e5, LinearRope(rope_type="linear", factor=2.0))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("qwen2", {}, "read it as a Qwen2Tokenizer, which splits text otherwise.*a qwen2 needs a tokenizer of that kind"),
        ("llama", {"tokenizer_class": "GPT2Tokenizer"}, "splits text otherwise.*tokenizer_class is 'GPT2Tokenizer': write Pre"),
        ("llama", {"tokenizer_class": "MistralCommonBackend"}, "transformers cannot load it"),
    ],
)
def test_a_tokenizer_that_would_be_served_as_another_is_refused(
    new_attempt: Make, tokenizer_folder: Path, tmp_path: Path, family: str, config: dict[str, Any], message: str
) -> None:
    """transformers makes some by code of its own, and takes no more than the vocabulary from tokenizer.json."""
    folder = shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    named = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, **config}))
    with pytest.raises(StepError, match=message):
        new_attempt(base=written(tmp_path / "base", family), tokenizer=folder).run()


def test_a_tokenizer_that_gets_more_tokens_than_there_are_rows_is_refused(
    new_attempt: Make, qwen_tokenizer: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(qwen_tokenizer, tmp_path / "tokenizer")
    named = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in named.items() if k != "pad_token"}))
    with pytest.raises(StepError, match=r"has 513 tokens \(<\|endoftext\|> beside those of tokenizer.json\).* has 512 rows"):
        new_attempt(base=written(tmp_path / "base", "qwen2"), tokenizer=folder).run()
    padded = written(tmp_path / "padded", "qwen2", vocab_size=576)
    new_attempt("padded", base=padded, tokenizer=folder).run()


def _result(attempt: Attempt) -> dict[str, Any]:
    process = attempt.start()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return dict(attempt.result()["metrics"])
