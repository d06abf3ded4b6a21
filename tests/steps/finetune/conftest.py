"""Conversations that a tiny model can learn by heart, a template for them, and attempts at fine-tuning."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tests.steps.train.conftest import ARCHITECTURE, Attempt, write_tokenizer

from forge.contract.control_tokens import BOS_ID, EOS_ID
from forge.contract.messages import InputArtifact, StepRequest
from forge.spec.architecture import Architecture
from forge.steps.train.data import TokensMeta
from forge.steps.train.export import model_config
from forge.steps.train.model import build_model
from forge.steps.train.names import to_files

TEMPLATE = """\
{%- for message in messages -%}
{{ bos_token + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{ message.content + eos_token }}{%- endgeneration -%}
{%- else -%}
{{ message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ bos_token + 'assistant\\n' }}{%- endif -%}"""
TRAINING = {
    "tokens": 64 * 4 * 12,
    "sequence_length": 64,
    "batch_tokens": 64 * 4,
    "micro_batch_sequences": 2,
    "optimizer": {"lr": 1e-2},
    "schedule": {"name": "wsd", "warmup_tokens": 512, "decay_tokens": 768},
    "seed": 7,
}
LORA = {"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}}


def chat(*contents: str, system: str | None = None) -> dict[str, Any]:
    """A conversation of alternating contents, the user's first."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def write_conversations(folder: Path, *conversations: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00000.jsonl").write_text("".join(json.dumps(each) + "\n" for each in conversations))
    return folder


def preferred(question: str, chosen: str, rejected: str, system: str | None = None) -> dict[str, Any]:
    """A question, and which of two answers to it is preferred."""
    prompt = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@dataclass
class Tuning(Attempt):
    """An attempt at fine-tuning; ``tokens`` is the folder of conversations, or of preferences."""

    template: str = TEMPLATE
    adapter: dict[str, Any] | None = None
    chats: dict[str, Any] = field(default_factory=dict)
    objective: str = "sft"
    sources: dict[str, str] = field(default_factory=dict)

    def request(self) -> StepRequest:
        base = super().request()
        chats = {"sft": "conversations", "dpo": "preferences"}[self.objective]
        inputs = {
            chats: InputArtifact(digest="sha256:" + "1" * 64, path=str(self.tokens), sources=self.sources),
            **{name: artifact for name, artifact in base.inputs.items() if name != "tokens"},
        }
        parameters = {
            "objective": self.objective,
            "base": {},
            chats: self.chats,
            "training": {**TRAINING, **self.training},
            "chat_template": self.template,
            **({"adapter": self.adapter} if self.adapter else {}),
            **self.parameters,
        }
        return base.model_copy(update={"inputs": inputs, "parameters": parameters})


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights."""
    folder = tmp_path_factory.mktemp("base")
    architecture = Architecture.model_validate(ARCHITECTURE)
    meta = TokensMeta(schema_version=1, dtype="uint16", vocab_size=512, eos_token_id=EOS_ID, bos_token_id=BOS_ID, splits={})
    (folder / "config.json").write_text(json.dumps(model_config(architecture, meta, "float32")))
    save_file(build_model(architecture, 512, 3).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def base_of_experts(tmp_path: Path) -> Path:
    """Random weights of a mixture of experts."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    architecture = Architecture.model_validate({**ARCHITECTURE, "family": "mixtral", "experts": experts})
    meta = TokensMeta(schema_version=1, dtype="uint16", vocab_size=512, eos_token_id=EOS_ID, bos_token_id=BOS_ID, splits={})
    folder = tmp_path / "experts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model_config(architecture, meta, "float32")))
    state = to_files(build_model(architecture, 512, 3).state_dict())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def conversations_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [chat(f"what is {number}?", "even" if number % 2 == 0 else "odd") for number in range(40)]
    return write_conversations(tmp_path_factory.mktemp("conversations"), *pairs)


@pytest.fixture(scope="session")
def preferences_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which of two words is the right answer depends on how the question begins."""
    words = ("yes", "never")
    pairs = [
        preferred(f"{('may', 'must')[number % 2]} {number}?", words[number % 2], words[1 - number % 2]) for number in range(40)
    ]
    return write_conversations(tmp_path_factory.mktemp("preferences"), *pairs)


@pytest.fixture
def new_preferring(new_tuning: Callable[..., Tuning], preferences_folder: Path) -> Callable[..., Tuning]:
    """As ``new_tuning``, for the objective dpo."""

    def make(name: str = "run", **fields: Any) -> Tuning:
        return new_tuning(name, **{"objective": "dpo", "tokens": preferences_folder, **fields})

    return make


@pytest.fixture
def new_tuning(tmp_path: Path, conversations_folder: Path, tokenizer_folder: Path, base_folder: Path) -> Callable[..., Tuning]:
    """Make an attempt: ``new_tuning("name of a run", number=2, adapter=LORA)``; attempts of one name share scratch."""

    def make(name: str = "run", **fields: Any) -> Tuning:
        defaults = {"tokens": conversations_folder, "tokenizer": tokenizer_folder, "base": base_folder}
        return Tuning(root=tmp_path / name, **{**defaults, **fields})

    return make
