"""A configuration repository of any size: models x data x evaluations, as an organisation would have, always the same bytes.

``write_repository`` makes the commits (one ``git fast-import``); ``write_history`` makes the ledger and the store's manifests
that a complete ``forge apply`` would have left, so that the next plan has nothing to do. Attestations are left out: planning
reads none. Of 100 resources 18 are recipes, 12 tokenizers, 36 models, 8 suites, 4 policies and 22 deployments.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import manifest_of
from forge.contract.record import Record, Release, Spent
from forge.ledger.ledger import Draft, Ledger
from forge.plan.graph import build_graph
from forge.plan.step import FromCommit, key_of
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

SETTINGS = """\
[specs]
include = ["models/**/*.yaml", "policies/**/*.yaml", "evals/*.yaml"]
[accelerators.cpu]
flops_per_second = 9.0e10
price_per_hour = 0.08
"""

_SHARES = {"recipe": 18, "tokenizer": 12, "model": 36, "suite": 8, "policy": 4, "deployment": 22}
_TIME = 1_767_225_600
"""2026-01-01, the time of every commit and record."""


@dataclass(frozen=True)
class Size:
    """How many resources of each kind; each kind has one at least."""

    recipe: int
    tokenizer: int
    model: int
    suite: int
    policy: int
    deployment: int


def size_of(resources: int) -> Size:
    """The shares of each kind in a number of resources; models make up the rounding."""
    counts = {name: max(1, resources * share // 100) for name, share in _SHARES.items()}
    counts["model"] += resources - sum(counts.values())
    return Size(**counts)


def files_of(resources: int, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Path and text of every file; another seed changes every training and nothing else."""
    size = size_of(resources)
    yield "forge.toml", SETTINGS
    for n in range(size.recipe):
        yield f"corpus/d{n}/part.jsonl", json.dumps({"id": str(n), "text": f"document {n}"}) + "\n"
        yield f"models/data/d{n}.yaml", _recipe(n)
    for n in range(size.tokenizer):
        yield f"models/tokenizers/t{n}.yaml", _tokenizer(n, size)
    for n in range(size.model):
        yield f"models/m{n}/model.yaml", _model(n, size, seed)
    for n in range(size.deployment):
        yield f"models/m{n % size.model}/deployment-{n}.yaml", _deployment(n, size)
    for n in range(size.suite):
        yield f"evals/e{n}.yaml", _suite(n)
        yield f"evals/tasks/e{n}/task.yaml", f"task: task_{n}\n"
        yield f"evals/tasks/e{n}/items.jsonl", json.dumps({"text": f"item {n}"}) + "\n"
    for n in range(size.policy):
        yield f"policies/p{n}.yaml", _policy(n)


def write_repository(folder: Path, resources: int) -> str:
    """Make a repository with these resources in one commit; returns the commit."""
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    for name, value in (("user.name", "Bench"), ("user.email", "bench@forge.invalid"), ("gc.auto", "0")):
        _git(folder, "config", name, value)
    return commit(folder, dict(files_of(resources)), "everything")


def change_models(folder: Path, resources: int, count: int, seed: int) -> str:
    """Commit another seed for some models, spread evenly; returns the commit."""
    size = size_of(resources)
    numbers = [index * size.model // count for index in range(count)]
    return commit(folder, {f"models/m{n}/model.yaml": _model(n, size, seed) for n in numbers}, f"{count} models changed")


def commit(folder: Path, files: dict[str, str], message: str) -> str:
    """Commit some files on top of main by one ``git fast-import``; the working tree is not touched."""
    data = message.encode()
    parts = [f"commit refs/heads/main\ncommitter Bench <bench@forge.invalid> {_TIME} +0000\n".encode()]
    parts.append(b"data %d\n%b\n" % (len(data), data))
    head = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "refs/heads/main"], cwd=folder, capture_output=True, text=True, check=False
    ).stdout.strip()
    if head:
        parts.append(f"from {head}\n".encode())
    for path, text in files.items():
        content = text.encode()
        parts.append(f"M 100644 inline {path}\n".encode() + b"data %d\n%b\n" % (len(content), content))
    subprocess.run(["git", "fast-import", "--quiet", "--date-format=raw"], cwd=folder, input=b"".join(parts), check=True)
    return _git(folder, "rev-parse", "refs/heads/main")


def write_history(folder: Path) -> int:
    """Record everything that HEAD asks for as done, and put the manifests into the store; returns the number of entries."""
    with Repository(folder) as repository:
        desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
        drafts: list[Draft] = []
        products: dict[str, dict[str, str]] = {}
        manifests: dict[str, bytes] = {}
        for step in build_graph(desired).values():
            inputs = {}
            for name, source in step.inputs.items():
                if isinstance(source, FromCommit):
                    inputs[name] = source.bundle.digest
                    manifests[source.bundle.digest] = source.bundle.manifest.to_bytes()
                else:
                    inputs[name] = products[source.step_id][source.product]
            key = key_of(step, inputs)
            made = {}
            for name in STEPS[step.kind].products:
                content = f"{step.id} {name}".encode()
                manifest = manifest_of({"file": (len(content), digest_of_bytes(content))})
                made[name] = manifest.digest
                manifests[manifest.digest] = manifest.to_bytes()
            products[step.id] = made
            record = Record(
                key=key,
                step=step.kind,
                step_version=STEPS[step.kind].version,
                step_id=step.id,
                subject=step.subject,
                parameters=dict(step.parameters),
                inputs=inputs,
                products=made,
                sources={n: item.bundle.sources for n, item in step.inputs.items() if isinstance(item, FromCommit)},
                metrics={"verdict": "GO", "failed": ""} if step.kind is StepKind.GATE else {},
                commit=desired.commit or "",
                attempt=1,
                started="2026-01-01T00:00:00.000+00:00",
                finished="2026-01-01T00:00:10.000+00:00",
                environment={},
                actual=Spent(seconds=10.0, cost=0.01),
                attestations={},
            )
            drafts.append(Draft(record))
            if step.environment is not None:
                drafts.append(Draft(_release(record, made["release"], step.environment)))
        Ledger(repository, desired.settings.ledger.ref, clock=lambda: _TIME).append(drafts)
        store = folder / desired.settings.store.url / "manifests"
    for digest, data in manifests.items():
        name = digest.removeprefix("sha256:")
        (store / name[:2]).mkdir(parents=True, exist_ok=True)
        (store / name[:2] / f"{name}.json").write_bytes(data)
    return len(drafts)


def _release(record: Record, digest: str, environment: str) -> Release:
    return Release(
        environment=environment,
        deployment=record.step_id.split("/", 1)[1],
        release=digest,
        key=record.key,
        commit=record.commit,
        moved="2026-01-01T00:00:10.000+00:00",
    )


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _recipe(n: int) -> str:
    return f"""\
apiVersion: forge/v1
kind: DataRecipe
metadata: {{name: d{n}, owners: [team-{n % 7}], labels: {{tier: "{n % 3}"}}}}
spec:
  sources:
    - {{path: corpus/d{n}/*.jsonl, license: CC-BY-4.0, origin: part {n} of the generated corpus}}
  filters:
    gopher_quality: {{min_doc_words: {40 + n % 50}, max_symbol_word_ratio: 0.2}}
  dedup: {{exact: true}}
  pii: {{emails: true}}
  split: {{validation_fraction: 0.05, seed: {n}}}
"""


def _tokenizer(n: int, size: Size) -> str:
    return f"""\
apiVersion: forge/v1
kind: Tokenizer
metadata: {{name: t{n}}}
spec: {{data: DataRecipe/d{n % size.recipe}, vocab_size: {1024 * (1 + n % 32)}, algorithm: unigram}}
"""


def _model(n: int, size: Size, seed: int) -> str:
    heads = 2 + 2 * (n % 4)
    return f"""\
apiVersion: forge/v1
kind: Model
metadata: {{name: m{n}, owners: [team-{n % 7}], description: model {n} of the generated repository}}
spec:
  objective: pretrain
  data: DataRecipe/d{n % size.recipe}
  tokenizer: Tokenizer/t{n % size.tokenizer}
  architecture: {{family: llama, hidden_size: {heads * 32}, num_hidden_layers: {2 + n % 6}, num_attention_heads: {heads},
                 num_key_value_heads: 1, intermediate_size: {heads * 86}, max_position_embeddings: 512,
                 tie_word_embeddings: true}}
  training:
    tokens: {1 + n % 40}M
    sequence_length: 256
    batch_tokens: 8192
    optimizer: {{lr: 3.0e-3, betas: [0.9, 0.95], weight_decay: 0.1}}
    schedule: {{name: wsd, warmup_tokens: 100k, decay_tokens: 200k}}
    precision: bfloat16
    seed: {seed * 1_000_000 + n}
  resources: {{accelerator: cpu, count: 1}}
"""


def _suite(n: int) -> str:
    return f"""\
apiVersion: forge/v1
kind: EvalSuite
metadata: {{name: e{n}}}
spec:
  include: [evals/tasks/e{n}/*]
  tasks: [task_{n}]
"""


def _policy(n: int) -> str:
    return f"""\
apiVersion: forge/v1
kind: InferencePolicy
metadata: {{name: p{n}}}
spec:
  roles:
    - name: reader
      keys: ["env:FORGE_KEY_{n}"]
      limits: {{max_tokens: {256 + n}, requests_per_minute: 60}}
  access: |
    @id("readers-ask")
    permit (principal == Role::"reader", action, resource);
  redactions:
    - {{name: number, pattern: "[0-9]{{12,19}}", replacement: "[number]"}}
"""


def _deployment(n: int, size: Size) -> str:
    suites = sorted({n % size.suite, (n + 1) % size.suite})
    gates = "".join(
        f"    - suite: EvalSuite/e{suite}\n      thresholds: [{{task: task_{suite}, metric: bits_per_byte, max: 7.5}}]\n"
        for suite in suites
    )
    return f"""\
apiVersion: forge/v1
kind: Deployment
metadata: {{name: r{n}}}
spec:
  environment: env-{n}
  model: Model/m{n % size.model}
  policy: InferencePolicy/p{n % size.policy}
  gates:
{gates}"""
