"""What the backend is made of, without a training: which release, how it is changed, its configuration, batches and shards."""

import ast
import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.steps.nanotron.conftest import NanotronAttempt
from tests.steps.train.conftest import ARCHITECTURE

from forge.errors import StepError
from forge.spec.architecture import Architecture
from forge.steps.nanotron import loader, stand_ins, wheel
from forge.steps.nanotron.batches import padded_validation_batches, training_batches
from forge.steps.nanotron.config import nanotron_config, nanotron_yaml
from forge.steps.nanotron.loader import (
    ALWAYS,
    WITH_FLASH_ATTENTION,
    WITHOUT_FLASH_ATTENTION,
    Machine,
    changed_sources,
    load,
    machine_for,
)
from forge.steps.nanotron.parity import check_parity, exported_logits
from forge.steps.nanotron.state import Shard, fill, hugging_face_names, join, split
from forge.steps.nanotron.wheel import check_sources, read_wheel
from forge.steps.nanotron.worker import check_spread, stages_with_weights
from forge.steps.train.data import open_corpus, training_batch, validation_batches
from forge.steps.train.export import export_weights
from forge.steps.train.model import RMSNorm, build_model
from forge.steps.train.rotary import Rotary

CPU = Machine(cuda=False, flash_attention=False)
IN_ANOTHER_PROCESS = """
import sys
from forge.steps.nanotron.loader import Machine, load
load(Machine(cuda=False, flash_attention=False))
from nanotron.config import get_config_from_file
import nanotron.trainer
config = get_config_from_file(sys.argv[1])
print(config.parallelism.tp, config.tokens.batch_accumulation_per_replica, config.optimizer.clip_grad)
print(sorted({name.split(".")[0] for name in sys.modules} & {"flash_attn", "wandb", "datasets", "transformers", "triton"}))
get_config_from_file(sys.argv[2])
"""


def test_any_other_release_is_refused_by_its_digest() -> None:
    sources = read_wheel()
    for path, data in (("trainer.py", b"# another\n"), ("extra.py", b"")):
        with pytest.raises(StepError, match=rf"not the files of {wheel.WHEEL}.*{wheel.WHEEL_DIGEST}.*pip install --no-deps"):
            check_sources({**sources, path: data}, Path("somewhere"))
    without = dict(sources)
    del without["random.py"]
    with pytest.raises(StepError, match=wheel.FILES_DIGEST):
        check_sources(without, Path("somewhere"))
    check_sources(sources, Path("somewhere"))


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    for missing in ("nanotron", "dacite"):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name, gone=missing: None if name == gone else find(name))
            with pytest.raises(StepError, match=rf"needs the package {missing}.*`pip install --no-deps nanotron==0.4 dacite=="):
                read_wheel()


def test_the_command_installs_what_the_lock_says() -> None:
    locked = (Path(__file__).parents[3] / "locks" / "cpu.txt").read_text().split()
    assert set(wheel.INSTALL.split()[3:]) <= set(locked)


def test_every_change_finds_its_text_keeps_the_lines_and_leaves_python() -> None:
    sources = read_wheel()
    before = {loader._module_of(path): data.decode() for path, data in sources.items()}
    for machine in (CPU, Machine(cuda=True, flash_attention=False), Machine(cuda=True, flash_attention=True)):
        after = changed_sources(sources, machine)
        for name, text in before.items():
            assert after[name].count("\n") == text.count("\n"), name
            ast.parse(after[name])
    assert not [name for name, text in changed_sources(sources, CPU).items() if '"cuda"' in text or "torch.cuda." in text]
    with_flash = Machine(cuda=True, flash_attention=True)
    kept = changed_sources(sources, with_flash)
    changed = {change.module for change in ALWAYS + WITH_FLASH_ATTENTION}
    assert {name for name, text in before.items() if kept[name] != text} == changed
    for machine, changes in ((CPU, ALWAYS + WITHOUT_FLASH_ATTENTION), (with_flash, WITH_FLASH_ATTENTION)):
        for change in changes:
            damaged = {path: data.replace(change.old.strip().encode(), b"pass") for path, data in sources.items()}
            with pytest.raises(StepError, match=r"stands there 0 times, expected 1"):
                changed_sources(damaged, machine)


def test_flash_attention_adds_up_its_gradients_in_one_order() -> None:
    text = changed_sources(read_wheel(), Machine(cuda=True, flash_attention=True))["nanotron.models.llama"]
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    trained = next(call for call in calls if ast.unparse(call.func) == "flash_attn_varlen_func")
    assert "deterministic=True" in ast.unparse(trained)
    assert "deterministic" not in changed_sources(read_wheel(), CPU)["nanotron.models.llama"]


def test_nothing_but_the_releases_own_modules_is_imported_under_its_name() -> None:
    """Neither a file beside them nor a compiled one: what was hashed is what is compiled."""
    finder = loader._Finder(changed_sources(read_wheel(), CPU), CPU)
    with pytest.raises(ModuleNotFoundError, match=r"nanotron 0\.4 has no module nanotron\.planted"):
        finder.find_spec("nanotron.planted")
    assert finder.find_spec("numpy") is None
    found = finder.find_spec("nanotron.logging")
    assert found is not None
    assert "from typing import Any as LoggingArgs" in found.loader.get_source("nanotron.logging")


def test_flash_attention_is_for_bfloat16_on_cuda() -> None:
    assert machine_for("cpu", "bfloat16") == CPU
    assert not machine_for("cuda", "float32").flash_attention


def test_nanotrons_strict_reader_takes_our_yaml_and_refuses_an_unknown_key(
    new_attempt: Callable[..., NanotronAttempt], tmp_path: Path
) -> None:
    attempt = new_attempt(
        layout={"tensor_parallel": 2},
        processes=4,
        training={"batch_tokens": 512, "optimizer": {"lr": 1e-2, "gradient_clip_norm": None}},
    )
    text = nanotron_yaml(attempt.job(), open_corpus(attempt.tokens).meta)
    ours, misspelt = tmp_path / "ours.yaml", tmp_path / "misspelt.yaml"
    ours.write_text(text)
    misspelt.write_text(text.replace("zero_stage:", "zero_stages:"))
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, ours, misspelt], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.splitlines() == ["2 2 inf", "[]"], done.stderr
    assert done.returncode == 1
    assert "zero_stages" in done.stderr.splitlines()[-1]


def test_a_nanotron_that_was_imported_before_the_loader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if not isinstance(each, loader._Finder)])
    monkeypatch.setitem(sys.modules, "nanotron", ModuleType("nanotron"))
    with pytest.raises(StepError, match="nanotron was imported before Forge's loader"):
        load(CPU)


@pytest.mark.parametrize(
    ("layers", "vocab_size", "stages", "expected"),
    [(2, 512, 2, 2), (2, 32000, 2, 1), (4, 512, 4, 3), (4, 64, 4, 4), (8, 512, 2, 2)],
)
def test_a_stage_that_would_hold_no_weights_is_foreseen(
    new_attempt: Callable[..., NanotronAttempt], layers: int, vocab_size: int, stages: int, expected: int
) -> None:
    architecture = {"num_hidden_layers": layers}
    attempt = new_attempt(architecture=architecture, layout={"pipeline_parallel": stages}, processes=stages)
    job, meta = attempt.job(), open_corpus(attempt.tokens).meta.model_copy(update={"vocab_size": vocab_size})
    assert stages_with_weights(job.architecture, vocab_size, stages) == expected
    if expected < stages:
        with pytest.raises(StepError, match=f"{stages - expected} of {stages} stages would hold no weights"):
            check_spread(job, meta)
    else:
        check_spread(job, meta)


def test_a_vocabulary_that_nanotron_would_pad_is_refused(new_attempt: Callable[..., NanotronAttempt]) -> None:
    attempt = new_attempt(layout={"tensor_parallel": 2}, processes=2)
    meta = open_corpus(attempt.tokens).meta.model_copy(update={"vocab_size": 511})
    with pytest.raises(StepError, match=r"vocabulary of 511 tokens is no multiple of nanotron\.tensor_parallel = 2"):
        check_spread(attempt.job(), meta)


def test_the_configuration_holds_the_spec(new_attempt: Callable[..., NanotronAttempt]) -> None:
    attempt = new_attempt(layout={"pipeline_parallel": 2}, processes=4)
    config = nanotron_config(attempt.job(), open_corpus(attempt.tokens).meta)
    assert (config["parallelism"]["dp"], config["parallelism"]["tp"], config["parallelism"]["pp"]) == (2, 1, 2)
    assert config["parallelism"]["pp_engine"] == "afab", "one micro-batch cannot fill two stages"
    assert config["tokens"] == {
        "sequence_length": 32,
        "train_steps": 12,
        "micro_batch_size": 4,
        "batch_accumulation_per_replica": 1,
    }
    assert config["optimizer"]["learning_rate_scheduler"] == {
        "learning_rate": 1e-2,
        "lr_warmup_steps": 2,
        "lr_warmup_style": "linear",
        "lr_decay_style": "linear",
        "lr_decay_steps": 3,
        "lr_decay_starting_step": 9,
        "min_decay_lr": 0.0,
    }
    assert yaml.safe_load(nanotron_yaml(attempt.job(), open_corpus(attempt.tokens).meta)) == config


@pytest.mark.parametrize(("processes", "layout"), [(1, {}), (2, {}), (4, {"tensor_parallel": 2})])
def test_the_copies_together_read_the_torch_backends_windows_each_once(
    new_attempt: Callable[..., NanotronAttempt], processes: int, layout: dict[str, int]
) -> None:
    attempt = new_attempt(processes=processes, layout=layout, training={"tokens": 256 * 70})  # beyond one epoch
    job, tokens = attempt.job(), open_corpus(attempt.tokens).train
    read: Counter[int] = Counter()
    for step in range(job.total_steps):
        expected = training_batch(tokens, 32, job.training.seed, step * job.batch_sequences, job.batch_sequences)
        found = [batch for copy in range(job.copies) for batch in training_batches(job, tokens, step, copy)]
        assert {batch.inputs.shape[0] for batch in found} == {job.micro_batch_sequences}
        assert torch.equal(torch.cat([batch.inputs for batch in found]), expected.inputs)
        assert torch.equal(torch.cat([batch.targets for batch in found]), expected.targets)
        read.update(expected.targets.flatten().tolist())
    assert read.total() == job.total_tokens


def test_a_resumed_run_reads_on_where_the_interrupted_one_stopped(new_attempt: Callable[..., NanotronAttempt]) -> None:
    job = new_attempt().job()
    tokens = open_corpus(new_attempt().tokens).train
    whole = [batch.inputs for step in range(12) for batch in training_batches(job, tokens, step, 0)]
    parts = [
        batch.inputs for steps in (range(5), range(5, 12)) for step in steps for batch in training_batches(job, tokens, step, 0)
    ]
    assert torch.equal(torch.cat(whole), torch.cat(parts))


def test_validation_counts_every_token_once_though_the_last_sequence_is_filled_up(
    new_attempt: Callable[..., NanotronAttempt],
) -> None:
    tokens = open_corpus(new_attempt().tokens).validation
    assert len(tokens) % 32, "the last sequence has to be shorter"
    padded = list(padded_validation_batches(tokens, 32, 4))
    counted = torch.cat([each.batch.targets[each.counts.bool()] for each in padded])
    assert torch.equal(counted, torch.from_numpy(tokens.tokens.astype("int64")))
    assert {each.batch.targets.shape[1] for each in padded} == {32}
    assert len(padded) == len(list(validation_batches(tokens, 32, 4)))


NAMES = [
    "model.token_position_embeddings.pp_block.token_embedding.weight",
    "model.final_layer_norm.pp_block.weight",
    "model.lm_head.pp_block.weight",
    *(
        f"model.decoder.{layer}.pp_block.{part}.weight"
        for layer in range(2)
        for part in (
            "input_layernorm",
            "post_attention_layernorm",
            "attn.qkv_proj",
            "attn.o_proj",
            "mlp.gate_up_proj",
            "mlp.down_proj",
        )
    ),
]


@settings(max_examples=20, deadline=None)
@given(
    heads=st.sampled_from([(2, 1), (4, 2), (4, 4), (6, 3)]),
    head=st.sampled_from([4, 8, 16]),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_changing_the_form_and_back_gives_every_bit_again(heads: tuple[int, int], head: int, tied: bool, seed: int) -> None:
    architecture = Architecture(
        **{
            **ARCHITECTURE,
            "hidden_size": heads[0] * head,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "tie_word_embeddings": tied,
        }
    )
    state = build_model(architecture, 64, seed).state_dict()
    names = [name for name in NAMES if not (tied and "lm_head" in name)]
    assert sorted(each for name in names for each in hugging_face_names(name)) == sorted(state)
    for name in names:
        whole = join(name, state, architecture)
        parts = split(name, whole, architecture)
        assert all(torch.equal(parts[each], state[each]) for each in hugging_face_names(name))
        assert whole.numel() == sum(part.numel() for part in parts.values())
    steps = split("model.decoder.0.pp_block.attn.qkv_proj.weight", torch.tensor(3.0), architecture)
    assert [float(step) for step in steps.values()] == [3.0, 3.0, 3.0]


def test_an_unknown_parameter_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        hugging_face_names("model.decoder.0.pp_block.attn.extra.weight")


def test_a_shard_takes_its_slices_of_the_whole() -> None:
    whole = torch.arange(12.0).view(6, 2)
    shard = Shard(
        "x",
        torch.zeros(3, 2),
        (((slice(0, 2), slice(None)), (slice(2, 4), slice(None))), ((slice(2, 3), slice(None)), (slice(5, 6), slice(None)))),
        (6, 2),
    )
    fill(shard, whole)
    assert torch.equal(shard.tensor, whole[[2, 3, 5]])


def test_the_stand_ins_compute_what_the_torch_backends_model_does() -> None:
    architecture = Architecture(**ARCHITECTURE)
    torch.manual_seed(0)
    heads, size, length = 4, 8, 16
    query, key, value = torch.randn(3, 2, length, heads, size)
    rotary = stand_ins.RotaryEmbedding(size, interleaved=True)
    turned, key_value = rotary(query, kv=torch.stack((key, value), dim=2))
    assert torch.equal(key_value[:, :, 1], value)
    order = torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))
    for ours, given_ in ((turned, query), (key_value[:, :, 0], key)):
        half = Rotary(architecture)(given_[..., order].transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(ours[..., order], half)
    x, norm = torch.randn(3, 32), RMSNorm(architecture.hidden_size, architecture.rms_norm_eps)
    torch.testing.assert_close(stand_ins.layer_norm_fn(x, norm.weight, None, eps=norm.eps, is_rms_norm=True), norm(x))
    ends = torch.arange(3, dtype=torch.int32) * length
    flat = [each.flatten(0, 1) for each in (query, key[:, :, :2], value[:, :, :2])]
    mixed = stand_ins.flash_attn_varlen_func(*flat, ends, ends, length, length, causal=True)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in (query, key[:, :, :2], value[:, :, :2])), is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(mixed.view(2, length, heads, size), expected.transpose(1, 2))


def test_an_average_over_gloo_is_a_sum_divided_once(tmp_path: Path) -> None:
    """In one process, so what is divided by is told apart by ``_ranks``."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "group"), 1), rank=0, world_size=1
    )
    try:
        module = ModuleType("distributed")
        module.ReduceOp, module.all_reduce = torch.distributed.ReduceOp, torch.distributed.all_reduce
        stand_ins.average_on_gloo(module)
        several = [torch.full((2,), 6.0), torch.full((3,), 9.0)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stand_ins, "_ranks", lambda _group: 3)
            handle = module.all_reduce_coalesced(several, op=module.ReduceOp.AVG, async_op=True)
            handle.wait()
            handle.wait()
            one = torch.tensor(6.0)
            assert module.all_reduce(one, op=module.ReduceOp.AVG) is None
            summed = torch.tensor(6.0)
            module.all_reduce(summed)
        assert ([each.tolist() for each in several], float(one), float(summed)) == ([[2.0] * 2, [3.0] * 3], 2.0, 6.0)
    finally:
        torch.distributed.destroy_process_group()


def test_the_stand_ins_refuse_what_they_do_not_compute() -> None:
    q, ends = torch.randn(8, 2, 4), torch.tensor([0, 4, 8], dtype=torch.int32)
    with pytest.raises(ValueError, match="full sequences"):
        stand_ins.flash_attn_varlen_func(q[:7], q, q, ends, ends, 4, 4, causal=True)
    with pytest.raises(ValueError, match="dropout"):
        stand_ins.flash_attn_varlen_func(q, q, q, ends, ends, 4, 4, causal=True, dropout_p=0.1)
    with pytest.raises(ValueError, match="interleaved"):
        stand_ins.RotaryEmbedding(8)
    with pytest.raises(ValueError, match="plain"):
        stand_ins.layer_norm_fn(q, q[0], q[0], eps=1e-5, is_rms_norm=True)


def test_weights_that_are_not_the_trained_ones_are_not_published(
    new_attempt: Callable[..., NanotronAttempt], tmp_path: Path
) -> None:
    attempt = new_attempt()
    job, meta = attempt.job(), open_corpus(attempt.tokens).meta
    model = build_model(job.architecture, meta.vocab_size, 1)
    inputs = torch.arange(32)[None] + 260
    logits = model(inputs).detach()
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    turned = model.state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    for folder, state in (
        (right, dict(turned)),
        (wrong, {**turned, name: turned[name] * 4 + 1}),
    ):
        folder.mkdir()
        export_weights(folder, state, job, meta, attempt.tokenizer)
    assert check_parity(exported_logits(right, inputs), logits, "Model/x") < 1e-6
    with pytest.raises(StepError, match=r"Model/x: the exported model is not the trained one.*not published"):
        check_parity(exported_logits(wrong, inputs), logits, "Model/x")
    with pytest.raises(StepError, match="not the trained one"):
        check_parity(exported_logits(right, inputs), logits * float("nan"), "Model/x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"layout": {"tensor_parallel": 3}, "processes": 3},
            "num_attention_heads is 4, no multiple of nanotron.tensor_parallel = 3",
        ),
        ({"layout": {"tensor_parallel": 4}, "processes": 4}, "num_key_value_heads is 2"),
        ({"layout": {"pipeline_parallel": 3}, "processes": 3}, "more stages than the model has layers"),
        ({"layout": {"tensor_parallel": 2}, "processes": 3}, "no multiple of nanotron.tensor_parallel"),
        ({"architecture": {"rope_theta": 5e5}}, "rope_theta of 10000 only, not 500000"),
        ({"processes": 3}, "8 sequences cannot be dealt out to 3 copies"),
    ],
)
def test_what_nanotron_cannot_train_is_refused_before_it_starts(
    new_attempt: Callable[..., NanotronAttempt], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(StepError, match=message):
        new_attempt(**fields).run()
