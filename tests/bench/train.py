"""Training speed on this machine's CPU: Forge's train step, Hugging Face's Trainer, and a minimal loop, side by side.

Run as ``python tests/bench/train.py [TOKENS [ROUNDS]]`` (default 400000 and 5) in a clone where ``make run`` has passed. All
three train the example's model from scratch: the same architecture, batch, optimiser, schedule, precision and threads, and in
a round the same initial weights and the same tokens in the same order. The minimal loop is what nanoGPT does, around the same
module: autocast, cross entropy over the logits, clipping, fused AdamW. Rates count training steps alone, from the fifth on;
each round runs all three, so that what else the machine does falls on all. Medians of the rounds. Quality: bits per byte of
the validation split, which has to be no worse than a peer's. Sums in another order are enough to part two trainings by some
hundredths after so few tokens, so rounds have a seed each, and what is judged is the mean of their differences: no more than
twice its standard error above nought.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.goals import Goals, at_least, at_most

WARM_STEPS = 5
FLOORS = {"hf": at_least(1.2), "loop": at_least(1.0)}
NO_WORSE = at_most(2.0, "standard errors")
NAMES = {"forge": "Forge's train step", "hf": "Hugging Face Trainer", "loop": "a minimal loop around the same module"}


def main(tokens: int, rounds: int) -> None:
    """Measure in turns and print a table."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        request = request_of(Path(scratch), tokens)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
        for number in range(rounds):
            request["parameters"]["training"]["seed"] = number
            for name in NAMES:
                runs[name].append(forge_once(request) if name == "forge" else peer_once(name, request))
                print(f"round {number + 1}: {name} {runs[name][-1]}", file=sys.stderr)
    goals = Goals()
    ours = [run["tokens_per_second"] for run in runs["forge"]]
    print(
        f"| who | tokens/s, median of {rounds} | Forge against it, median of {rounds} | goal "
        f"| bits per byte, mean of {rounds} | Forge's less its, mean and standard error | goal |\n|---|---|---|---|---|---|---|"
    )
    for name, measured in runs.items():
        rates = [run["tokens_per_second"] for run in measured]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, rates, strict=True))
        goal = goals.judge(NAMES[name], ratio, FLOORS.get(name))
        quality = statistics.mean(run["bits_per_byte"] for run in measured)
        row = f"| {NAMES[name]} | {statistics.median(rates):,.0f} | {ratio:.2f} | {goal} | {quality:.4f} |"
        if name in FLOORS:
            pairs = zip(runs["forge"], measured, strict=True)
            differences = [mine["bits_per_byte"] - theirs["bits_per_byte"] for mine, theirs in pairs]
            mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
            row += f" {mean:+.4f} +- {error:.4f} | {goals.judge(f'{NAMES[name]}, bits per byte', mean / error, NO_WORSE)} |"
        print(row if name in FLOORS else f"{row} | |")
    print(f"\n{goals.summary()}")


def request_of(scratch: Path, tokens: int) -> dict[str, Any]:
    """The example's train step over fewer tokens, its inputs laid out from the store."""
    from forge.contract.kinds import STEPS, StepKind
    from forge.ledger.ledger import Ledger
    from forge.repo.desired import settings_of
    from forge.repo.repository import Repository
    from forge.repo.tree import CommitTree
    from forge.store.store import Store

    with Repository(Path.cwd()) as repository:
        settings = settings_of(CommitTree(repository, repository.resolve_commit("HEAD")))
        record = Ledger(repository, settings.ledger.ref).snapshot().latest("train/handbook")
        if record is None:
            sys.exit("train/handbook never ran here: run `make run` first")
        inputs = {}
        for name, digest in record.inputs.items():
            folder = scratch / name
            folder.mkdir()
            Store(settings.store.url, repository.home).lay_out(digest, folder)
            inputs[name] = {"digest": digest, "path": str(folder)}
    schedule = {"name": "wsd", "warmup_tokens": tokens // 10, "decay_tokens": tokens // 4}
    training = {**record.parameters["training"], "tokens": tokens, "schedule": schedule}
    return {
        "schema_version": 1,
        "step": "train",
        "step_version": STEPS[StepKind.TRAIN].version,
        "key": record.key,
        "subject": record.subject,
        "parameters": {**record.parameters, "training": training},
        "inputs": inputs,
        "output": "",
        "scratch": "",
        "attempt": 1,
        "resources": {"threads": settings.executor.threads},
    }


def forge_once(request: dict[str, Any]) -> dict[str, float]:
    """The step as a process of its own, as the executor starts it."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        mine = {**request, "output": f"{folder}/output", "scratch": f"{folder}/scratch"}
        (Path(folder) / "request.json").write_text(json.dumps(mine))
        run_python(["-m", "forge.steps", f"{folder}/request.json"], request)
        result = json.loads((Path(folder) / "result.json").read_text())
        events = [json.loads(line) for line in (Path(folder) / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event.get("learning_rate") is not None]
    first = next(event for event in steps if event["step"] >= WARM_STEPS)
    last = steps[-1]
    paused = sum(
        event.get("checkpoint_stall_seconds", 0.0) for event in events if first["time"] < event["time"] <= last["time"]
    )
    rate = (last["tokens"] - first["tokens"]) / (last["time"] - first["time"] - paused)
    return {
        "tokens_per_second": rate,
        "bits_per_byte": result["metrics"]["validation_bits_per_byte"],
        "checkpoint_seconds": paused,
    }


def peer_once(name: str, request: dict[str, Any]) -> dict[str, float]:
    """A peer in a process of its own, with the step's environment."""
    done = run_python([__file__, "--peer", name], request, json.dumps(request))
    found: dict[str, float] = json.loads(done.splitlines()[-1])
    return found


def run_python(arguments: list[str], request: dict[str, Any], stdin: str = "") -> str:
    threads = str(request["resources"]["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "GOMP_SPINCOUNT": "100000"}
    done = subprocess.run(
        [sys.executable, *arguments], input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arguments} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def peer(name: str, request: dict[str, Any]) -> None:
    """Train as a peer does; prints a JSON line."""
    import torch

    from forge.spec.architecture import Architecture
    from forge.spec.training import Training
    from forge.steps.train.data import open_corpus

    torch.set_num_threads(request["resources"]["threads"])
    parameters = request["parameters"]
    architecture, training = Architecture(**parameters["architecture"]), Training(**parameters["training"])
    corpus = open_corpus(Path(request["inputs"]["tokens"]["path"]))
    clock: list[tuple[int, float]] = []
    train = hugging_face if name == "hf" else minimal
    loss_of = train(architecture, training, corpus, lambda step: clock.append((step, time.perf_counter())))
    first, last = next(item for item in clock if item[0] >= WARM_STEPS), clock[-1]
    rate = (last[0] - first[0]) * training.batch_tokens / (last[1] - first[1])
    print(json.dumps({"tokens_per_second": rate, "bits_per_byte": bits_per_byte(corpus, training, loss_of)}))


def bits_per_byte(corpus: Any, training: Any, loss_of: Callable[[Any, Any], float]) -> float:
    from forge.steps.train.data import validation_batches

    batches = validation_batches(corpus.validation, training.sequence_length, training.micro_batch_sequences)
    nats = sum(loss_of(batch.inputs, batch.targets) for batch in batches)
    return nats / math.log(2) / corpus.validation.split.bytes


def hugging_face(architecture: Any, training: Any, corpus: Any, tick: Callable[[int], None]) -> Callable[[Any, Any], float]:
    """transformers' model and Trainer."""
    import torch
    from torch.nn import functional
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from forge.steps.train.data import training_batch
    from forge.steps.train.model import build_model

    class Windows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return math.ceil(training.tokens / training.sequence_length)

        def __getitem__(self, index: int) -> dict[str, Any]:
            batch = training_batch(corpus.train, training.sequence_length, training.seed, index, 1)
            # The Trainer shifts by itself: the last label of a window is lost to it.
            return {"input_ids": batch.inputs[0], "labels": batch.inputs[0]}

    class Ticker(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tick(state.global_step)

    settings = architecture.model_dump(exclude={"family"})
    model = LlamaForCausalLM(LlamaConfig(vocab_size=corpus.meta.vocab_size, **settings))
    drawn = build_model(architecture, corpus.meta.vocab_size, training.seed).state_dict()
    left = model.load_state_dict(drawn, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"lm_head.weight"}:  # the head may be the embedding
        sys.exit(f"the Trainer's model does not begin with Forge's weights: {left}")
    sequences = training.batch_tokens // training.sequence_length
    steps = -(-training.tokens // training.batch_tokens)
    schedule = training.schedule
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=min(sequences, training.micro_batch_sequences),
            gradient_accumulation_steps=max(1, sequences // training.micro_batch_sequences),
            learning_rate=training.optimizer.lr,
            adam_beta1=training.optimizer.betas[0],
            adam_beta2=training.optimizer.betas[1],
            adam_epsilon=training.optimizer.eps,
            weight_decay=training.optimizer.weight_decay,
            max_grad_norm=training.optimizer.gradient_clip_norm,
            lr_scheduler_type="warmup_stable_decay",
            warmup_steps=schedule.warmup_tokens // training.batch_tokens,
            lr_scheduler_kwargs={
                "num_decay_steps": schedule.decay_tokens // training.batch_tokens,
                "decay_type": "linear",
            },
            optim="adamw_torch_fused",
            bf16=training.precision == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            train_sampling_strategy="sequential",
            logging_steps=50,
            disable_tqdm=True,
            seed=training.seed,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Ticker()])
        trainer.train()

    @torch.no_grad()
    def loss_of(inputs: Any, targets: Any) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision == "bfloat16"):
            logits = model(inputs).logits
        return float(functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum"))

    model.eval()
    return loss_of


def minimal(architecture: Any, training: Any, corpus: Any, tick: Callable[[int], None]) -> Callable[[Any, Any], float]:
    """The shortest loop that trains as well."""
    import torch
    from torch.nn import functional

    from forge.steps.train.data import training_batch
    from forge.steps.train.model import build_model
    from forge.steps.train.optimizer import build_optimizer
    from forge.steps.train.schedule import learning_rate

    model = build_model(architecture, corpus.meta.vocab_size, training.seed)
    optimizer = build_optimizer(model, training.optimizer)
    length, sequences = training.sequence_length, training.batch_tokens // training.sequence_length
    steps = -(-training.tokens // training.batch_tokens)

    def forward(inputs: Any, targets: Any, reduction: str) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision == "bfloat16"):
            logits = model(inputs)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)

    for step in range(steps):
        rate = learning_rate(
            training.schedule, training.optimizer.lr, step, training.batch_tokens, steps * training.batch_tokens
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = training_batch(corpus.train, length, training.seed, step * sequences, sequences)
        loss = forward(batch.inputs, batch.targets, "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.optimizer.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tick(step + 1)

    @torch.no_grad()
    def loss_of(inputs: Any, targets: Any) -> float:
        return float(forward(inputs, targets, "sum"))

    return loss_of


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], json.load(sys.stdin))
    else:
        main(*(int(given or usual) for given, usual in zip_longest(sys.argv[1:], ("400000", "5"))))
