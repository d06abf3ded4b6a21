"""What is exported of each family, served by vLLM: the tokens that transformers generates from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.steps.train.conftest import Attempt, chain_documents, write_qwen_tokenizer, write_tokenizer, write_tokens
from tests.steps.train.test_train_families import written
from transformers import AutoModelForCausalLM

PROMPT, LENGTH = [300, 310, 320, 330], 12
SHAPES = {
    "mistral": {"head_dim": 32},
    "qwen2": {"hidden_size": 128},
    "qwen3": {"head_dim": 32},
}
"""Heads of 32, which vLLM's kernels for a CPU have; where the family can, of another size than hidden_size / heads."""
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, prompt, length = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    engine = LLM(model=folder, dtype="float32", max_model_len=64, enforce_eager=True, kv_cache_memory_bytes=2**28)
    wanted = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    (answer,) = engine.generate({"prompt_token_ids": prompt}, wanted, use_tqdm=False)
    print("tokens", json.dumps(list(answer.outputs[0].token_ids)))
"""

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("family", SHAPES)
def test_vllm_generates_from_an_export_what_transformers_does(family: str, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", chain_documents(60, seed=1), chain_documents(6, seed=2))
    (tmp_path / "tokenizer").mkdir()
    tokenizer = (write_qwen_tokenizer if family == "qwen2" else write_tokenizer)(tmp_path / "tokenizer")
    training = {"tokens": 256, "optimizer": {"lr": 1e-12}, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
    base = written(tmp_path / "base", family, **SHAPES[family])
    attempt = Attempt(tmp_path / "attempt", tokens, tokenizer, base=base, training=training)
    attempt.run()
    model = AutoModelForCausalLM.from_pretrained(attempt.weights)
    with torch.no_grad():
        expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=LENGTH, do_sample=False, eos_token_id=None)
    (tmp_path / "generate.py").write_text(GENERATE)
    command = [sys.executable, "generate.py", str(attempt.weights), json.dumps(PROMPT), str(LENGTH)]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (json.loads(line.removeprefix("tokens ")) for line in done.stdout.splitlines() if line.startswith("tokens "))
    assert found == expected[0, len(PROMPT) :].tolist()
    assert len(set(found)) > 3, "a model that says one thing tells nothing apart"
