"""A small configuration repository to test with: real Git, real files, everything scaled down."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.attest.authority import Authority, Signers
from forge.attest.keys import make_development_keys
from forge.attest.trust import read_trust_root
from forge.contract.kinds import Role

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = """
[executor]
threads = 1
[accelerators.cpu]
flops_per_second = 9.0e10
price_per_hour = 0.08
"""

DATA = """\
apiVersion: forge/v1
kind: DataRecipe
metadata: {name: small, owners: [tests]}
spec:
  sources:
    - {path: corpus/*.jsonl.gz, license: GPL-2.0-or-later, origin: part of the example's corpus}
  filters:
    gopher_quality: {min_doc_words: 40, max_symbol_word_ratio: 0.2, max_non_alpha_words_ratio: 0.5}
  dedup: {exact: true}
  pii: {emails: true}
  split: {validation_fraction: 0.1, seed: 3}
"""

TOKENIZER = """\
apiVersion: forge/v1
kind: Tokenizer
metadata: {name: small}
spec: {data: DataRecipe/small, vocab_size: 512}
"""

MODEL = """\
apiVersion: forge/v1
kind: Model
metadata: {name: small}
spec:
  objective: pretrain
  data: DataRecipe/small
  tokenizer: Tokenizer/small
  architecture: {family: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
                 num_key_value_heads: 1, intermediate_size: 64, max_position_embeddings: 256, tie_word_embeddings: true}
  training:
    tokens: 40k
    sequence_length: 64
    batch_tokens: 1024
    optimizer: {lr: 5.0e-3}
    schedule: {name: wsd, warmup_tokens: 2k, decay_tokens: 10k}
    seed: 5
"""

SUITE = """\
apiVersion: forge/v1
kind: EvalSuite
metadata: {name: small}
spec:
  include: [evals/tasks/*]
  tasks: [small_bpb]
"""

TASK = """\
task: small_bpb
dataset_path: json
dataset_kwargs: {data_files: {test: small_bpb.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""

POLICY = """\
apiVersion: forge/v1
kind: InferencePolicy
metadata: {name: small}
spec:
  roles:
    - name: reader
      keys: ["env:FORGE_TEST_KEY"]
      limits: {max_tokens: 32, requests_per_minute: 60}
  access: |
    @id("readers-ask")
    permit (principal == Role::"reader", action, resource);
"""

DEPLOYMENT = """\
apiVersion: forge/v1
kind: Deployment
metadata: {name: small-local}
spec:
  environment: local
  model: Model/small
  policy: InferencePolicy/small
  gates:
    - suite: EvalSuite/small
      thresholds:
        - {task: small_bpb, metric: bits_per_byte, max: 7.0}
"""

SPECS = {
    "models/data.yaml": DATA,
    "models/tokenizer.yaml": TOKENIZER,
    "models/model.yaml": MODEL,
    "models/deployment.yaml": DEPLOYMENT,
    "evals/small.yaml": SUITE,
    "policies/small.yaml": POLICY,
}


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder; returns what it printed."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def scaled(path: Path, changes: dict[str, str]) -> str:
    """An example's file with some texts replaced, each of which it has once: the example in seconds instead of minutes."""
    text = path.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def commit_all(folder: Path, message: str = "change") -> str:
    """Commit everything that lies in the folder; returns the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def new_repository(folder: Path) -> Path:
    """An empty repository with an author of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@forge.invalid")
    return folder


def write_small(folder: Path) -> None:
    """Write the small example's files: settings, specs, corpus and tasks."""
    (folder / "forge.toml").write_text(SETTINGS)
    (folder / ".gitignore").write_text(".forge/\n")
    for path, text in SPECS.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    source = ROOT / "models" / "handbook" / "corpus" / "developers-reference.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines][:60]
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    text = "".join(json.dumps({"id": item["id"], "text": item["text"]}) + "\n" for item in documents[:52])
    (corpus / "part.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    tasks = folder / "evals" / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    (tasks / "small_bpb.yaml").write_text(TASK)
    held_out = "".join(json.dumps({"text": item["text"][:600]}) + "\n" for item in documents[52:])
    (tasks / "small_bpb.jsonl").write_text(held_out)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the small example committed."""
    folder = new_repository(tmp_path / "repository")
    write_small(folder)
    commit_all(folder, "the small example")
    return folder


@pytest.fixture(scope="session")
def config_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Development keys for the whole run."""
    folder = tmp_path_factory.mktemp("config")
    make_development_keys(folder)
    return folder


@pytest.fixture
def forge(config_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a folder: ``forge(folder, "plan", code=0)``."""
    return lambda folder, *arguments, code=0: run_forge(folder, config_home, *arguments, code=code)


def run_forge(folder: Path, config_home: Path, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``forge`` as a user would, and check its exit code."""
    done = subprocess.run(
        [Path(sys.executable).with_name("forge"), *arguments],
        cwd=folder,
        env={**os.environ, "FORGE_CONFIG_HOME": str(config_home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if code is not None:
        assert done.returncode == code, f"forge {' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory, config_home: Path) -> Path:
    """The small example, applied once for the whole run; tests that change anything copy it first (``copy_of``)."""
    folder = new_repository(tmp_path_factory.mktemp("applied") / "repository")
    write_small(folder)
    commit_all(folder, "the small example")
    run_forge(folder, config_home, "apply")
    return folder


@pytest.fixture
def copy_of_applied(applied: Path, tmp_path: Path) -> Path:
    """A copy of the applied example to change at will."""
    folder = tmp_path / "copy"
    shutil.copytree(applied, folder, symlinks=True)
    return folder


def agent_signers(config_home: Path) -> Signers:
    """The keys of serving agents that a root without a supply chain lists."""
    return Authority(read_trust_root(config_home)).signers(Role.AGENT, "2026-01-01T00:00:00+00:00")


def unpack_objects(folder: Path) -> None:
    """Turn a repository's packs into loose objects, for tests that damage one of them."""
    packs = folder / ".git" / "objects" / "pack"
    contents = [path.read_bytes() for path in packs.glob("*.pack")]
    for path in packs.iterdir():
        path.unlink()
    for content in contents:
        subprocess.run(["git", "unpack-objects", "-q"], cwd=folder, input=content, check=True)


def loose_object(folder: Path, name: str) -> Path:
    """The file of a loose object, made writable."""
    path = folder / ".git" / "objects" / name[:2] / name[2:]
    path.chmod(0o644)
    return path
