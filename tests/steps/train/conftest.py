"""Tiny but whole inputs of a train step: a corpus with structure to learn, its tokenizer, requests, and ways to run them."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from forge.canonical import digest_of_bytes
from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE, Hyperparameters
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest, manifest_of
from forge.contract.messages import InputArtifact, Resources, StepRequest
from forge.spec.trials import SWEEP, without
from forge.steps.interruption import StopRequest
from forge.steps.run import Metrics, StepRun
from forge.steps.train import checkpoint
from forge.steps.train import run as run_train

VOCAB_SIZE = 512
SEQUENCE_LENGTH = 32
ARCHITECTURE = {
    "family": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
CONFIG = {
    **{name: value for name, value in ARCHITECTURE.items() if name not in ("family", "tie_word_embeddings")},
    "vocab_size": VOCAB_SIZE,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""A model of the same shape in the words of a ``config.json``, whose logits are large enough to tell two apart."""
TRAINING = {
    "tokens": 256 * 12,
    "sequence_length": SEQUENCE_LENGTH,
    "batch_tokens": 256,
    "micro_batch_sequences": 4,
    "optimizer": {"lr": 1e-2},
    "schedule": {"name": "wsd", "warmup_tokens": 512, "decay_tokens": 768},
    "seed": 7,
}


def write_split(folder: Path, name: str, documents: list[list[int]]) -> dict[str, int]:
    """One split in the layout of the product ``tokens``."""
    tokens = np.array([token for document in documents for token in document], dtype="<u2")
    tokens.tofile(folder / f"{name}.ds")
    np.cumsum([len(document) for document in documents]).astype("<u8").tofile(folder / f"{name}.ds.index")
    return {"documents": len(documents), "tokens": len(tokens), "bytes": 3 * len(tokens)}


def write_tokens(folder: Path, train: list[list[int]], validation: list[list[int]]) -> Path:
    """The product ``tokens``."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": write_split(folder, "train", train), "validation": write_split(folder, "validation", validation)}
    meta = {"schema_version": 1, "dtype": "uint16", "vocab_size": VOCAB_SIZE, "eos_token_id": 2, "bos_token_id": 1}
    (folder / "meta.json").write_text(json.dumps({**meta, "splits": splits}))
    return folder


def chain_documents(count: int, seed: int) -> list[list[int]]:
    """Documents of a Markov chain with few followers a token: a small model learns it in a few steps."""
    generator = np.random.default_rng(seed)
    followers = np.random.default_rng(0).integers(259, VOCAB_SIZE, size=(VOCAB_SIZE, 2))
    documents = []
    for _ in range(count):
        document = [int(generator.integers(259, VOCAB_SIZE))]
        for _ in range(int(generator.integers(20, 90))):
            document.append(int(followers[document[-1], generator.integers(2)]))
        documents.append([*document, 2])
    return documents


def write_tokenizer(folder: Path) -> Path:
    """The product ``tokenizer``: single characters with byte fall-back, as sentencepiece's conversion gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces += [chr(0x4E00 + index) for index in range(VOCAB_SIZE - len(pieces))]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [], fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def write_qwen_tokenizer(folder: Path) -> Path:
    """Of the kind that transformers gives every qwen2: bytes, Qwen's way to split text, composed accents."""
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, other) for one in letters[:16] for other in letters[:16]][: VOCAB_SIZE - 3 - len(letters)]
    pieces = ["<unk>", "<s>", "</s>", *letters, *(one + other for one, other in pairs)]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, pairs))
    tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in pieces[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer", **named}))
    return folder


def manifest_of_folder(folder: Path) -> Manifest:
    """What the control plane would name the product by."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return manifest_of({path: (len(data), digest_of_bytes(data)) for path, data in files.items()})


def fill_disk(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the disk be full when a checkpoint's optimiser state is written for the so-manieth time."""
    real, calls = checkpoint._write, []

    def full(folder: Path, name: str, data: bytes) -> tuple[int, str]:
        calls.append(name)
        if calls.count("optimizer.safetensors") == times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / name))
        return real(folder, name, data)

    monkeypatch.setattr(checkpoint, "_write", full)


@dataclass
class Attempt:
    """One attempt's request and folders; ``run`` works in this process, ``start`` in one of its own."""

    root: Path
    tokens: Path
    tokenizer: Path
    number: int = 1
    architecture: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    branches: tuple[int, ...] = ()
    """Steps at which other trainings leave this one."""
    parameters: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    key: str = "sha256:" + "a" * 64
    continues: Path | None = None
    continues_digest: str | None = None
    base: Path | None = None
    """The weights to begin with; the objective is then ``continue``."""
    replay: Path | None = None
    fraction: float = 0.25

    @property
    def folder(self) -> Path:
        path = self.root / f"attempt-{self.number}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def checkpoints(self) -> Path:
        return self.root / "scratch" / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.folder / "out" / "weights"

    @property
    def byproduct(self) -> Path:
        return self.folder / "out" / "checkpoint"

    def request(self) -> StepRequest:
        continues = None
        if self.continues is not None:
            digest = self.continues_digest or manifest_of_folder(self.continues).digest
            continues = InputArtifact(digest=digest, path=str(self.continues))
        inputs = {"tokens": self.tokens, "tokenizer": self.tokenizer, "base": self.base, "replay": self.replay}
        begin: dict[str, Any] = {"objective": "pretrain", "architecture": {**ARCHITECTURE, **self.architecture}}
        if self.base is not None:
            begin = {"objective": "continue", "base": {}}
        if self.replay is not None:
            begin["replay"] = {"fraction": self.fraction}
        return StepRequest(
            step="train",
            step_version=STEPS[StepKind.TRAIN].version,
            key=self.key,
            subject="Model/tiny",
            parameters={
                **begin,
                "training": {**TRAINING, **self.training},
                **self.parameters,
            },
            settings={"training": self.settings, **({"branches": list(self.branches)} if self.branches else {})},
            inputs={
                name: InputArtifact(digest=f"sha256:{number:x}" + f"{number:x}" * 63, path=str(path))
                for number, (name, path) in enumerate(inputs.items(), 1)
                if path is not None
            },
            output=str(self.folder / "out"),
            scratch=str(self.root / "scratch"),
            attempt=self.number,
            resources=Resources(threads=1, processes=self.processes),
            continues=continues,
        )

    def run(self, stop: StopRequest | None = None) -> Metrics:
        return run_train(StepRun(self.request(), self.folder, stop))

    def start(self) -> "subprocess.Popen[str]":
        path = self.folder / "request.json"
        path.write_text(self.request().model_dump_json())
        return subprocess.Popen([sys.executable, "-m", "forge.steps", str(path)], stderr=subprocess.PIPE, text=True)

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def failure(self) -> dict[str, Any]:
        return json.loads((self.folder / "failure.json").read_text())

    def weights_digest(self) -> str:
        return manifest_of_folder(self.weights).digest


def let_choose(attempt: Attempt, values: dict[str, float], fields: Sequence[str] | None = None) -> None:
    """Take fields out of an attempt's parameters, and give it their values as a sweep does; ``fields``: others than chosen."""
    folder = attempt.root / "chosen"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HYPERPARAMETERS_FILE).write_bytes(Hyperparameters(values=values).to_bytes())
    request, searched = attempt.request(), sorted(values if fields is None else fields)
    parameters = {**without(request.parameters, searched), SWEEP: searched}
    inputs = {**request.inputs, HYPERPARAMETERS: InputArtifact(digest="sha256:" + "c" * 64, path=str(folder))}
    attempt.request = lambda: request.model_copy(update={"parameters": parameters, "inputs": inputs})  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"), chain_documents(60, seed=1), chain_documents(6, seed=2))


@pytest.fixture
def new_attempt(tmp_path: Path, tokens_folder: Path, tokenizer_folder: Path) -> Callable[..., Attempt]:
    """Make an attempt: ``new_attempt("name of a run", number=2, training={...})``; attempts of one name share scratch."""

    def make(name: str = "run", **fields: Any) -> Attempt:
        fields = {"tokens": tokens_folder, "tokenizer": tokenizer_folder, **fields}
        return Attempt(root=tmp_path / name, **fields)

    return make


@pytest.fixture
def make_tokens(tmp_path: Path) -> Callable[..., Path]:
    """Write a product ``tokens`` of given documents: ``make_tokens(train, validation)``."""
    return lambda train, validation: write_tokens(tmp_path / "tokens", train, validation)
