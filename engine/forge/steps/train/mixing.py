"""Opening the data of a mixture: each part tokenized alike, and none read more often than the recipe of the model allows.

Invariant: whatever cannot be honoured is refused before the first step, with the figures that say what to change.
"""

from dataclasses import replace

from forge.errors import StepError
from forge.steps.run import Metrics, StepRun
from forge.steps.train.data import Corpus, MixedIn, count_windows, open_corpus
from forge.steps.train.job import TrainJob
from forge.steps.train.mixture import counts_of


def open_mixture(run: StepRun, job: TrainJob) -> Corpus:
    """The model's own data with all that is mixed in.

    Raises ``StepError`` for tokens of another tokenizer, and for data that would be read too often.
    """
    own = open_corpus(run.input("tokens"))
    if not job.mixture:
        return own
    parts = []
    for index, (part, sequences) in enumerate(zip(job.mixture, _counts(job, job.total_steps), strict=False)):
        folder = run.input(f"mixture-{index}")
        other = open_corpus(folder)
        for name in ("vocab_size", "eos_token_id", "bos_token_id"):
            expected, found = getattr(own.meta, name), getattr(other.meta, name)
            if expected != found:
                raise StepError(
                    f"{folder}: {name} is {found}, the model's own data has {expected}: another tokenizer made these"
                )
        windows = count_windows(other.train, job.training.sequence_length)
        if part.max_epochs is not None and sequences > part.max_epochs * windows:
            raise StepError(
                f"{job.subject}: mixture[{index}] would be read {sequences / windows:.2f} times ({sequences:,} sequences, and "
                f"it has {windows:,}), more than its max_epochs ({float(part.max_epochs):g}): lower its fraction or "
                "training.tokens, or add documents"
            )
        parts.append(MixedIn(other.train, part.fraction))
    return replace(own, train=replace(own.train, mixed_in=tuple(parts)))


def metrics_of_mixture(job: TrainJob, corpus: Corpus, steps: int) -> Metrics:
    """What was read of each part in so many steps; empty where nothing is mixed in."""
    metrics: Metrics = {}
    length, counts = job.training.sequence_length, _counts(job, steps)
    for index, (part, sequences) in enumerate(zip(corpus.train.mixed_in, counts, strict=False)):
        metrics[f"mixture_{index}_tokens"] = sequences * length
        metrics[f"mixture_{index}_epochs"] = sequences / count_windows(part.tokens, length)
    if metrics:
        metrics["epochs"] = counts[-1] / count_windows(corpus.train, length)
    return metrics


def _counts(job: TrainJob, steps: int) -> tuple[int, ...]:
    """Sequences of each part, and last of the model's own."""
    sequences = steps * job.batch_sequences - job.replayed_sequences(steps)
    return counts_of(sequences, tuple(part.fraction for part in job.mixture))
