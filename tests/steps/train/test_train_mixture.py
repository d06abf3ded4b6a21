"""Several recipes in one training: exact to the token, in an order that no total, batch or interruption changes."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.steps.train.conftest import Attempt, write_tokens
from tests.steps.train.test_train_stop import signal_before

from forge.contract.messages import InputArtifact, StepRequest
from forge.errors import StepError
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.train import loop
from forge.steps.train.data import MixedIn, TokenFile, count_windows, open_corpus, training_batch
from forge.steps.train.job import read_job
from forge.steps.train.mixture import counts_of, kind_of, place_of

BATCH = 256
percents = st.lists(st.integers(1, 90), min_size=1, max_size=5)


@dataclass
class Mixed(Attempt):
    """An attempt that reads other data too."""

    parts: list[tuple[Path, dict[str, float]]] = field(default_factory=list)

    def request(self) -> StepRequest:
        request = super().request()
        parameters = {**request.parameters, "mixture": [part for _, part in self.parts]}
        others = {
            f"mixture-{index}": InputArtifact(digest="sha256:" + f"{index + 7:x}" * 64, path=str(folder))
            for index, (folder, _) in enumerate(self.parts)
        }
        return request.model_copy(update={"parameters": parameters, "inputs": {**request.inputs, **others}})


def other_documents(seed: int, low: int, high: int) -> list[list[int]]:
    """Documents of ids from a range of their own."""
    draw = random.Random(seed)
    return [[*(draw.randrange(low, high) for _ in range(70)), 2] for _ in range(30)]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two other products ``tokens``, of ids that the first one does not hold."""
    folders = []
    for number, (low, high) in enumerate(((259, 300), (300, 340))):
        documents = other_documents(number, low, high)
        folders.append(write_tokens(tmp_path_factory.mktemp(f"other-{number}"), documents, documents[:5]))
    return folders


@pytest.fixture
def mixed(tmp_path: Path, tokens_folder: Path, tokenizer_folder: Path, others: list[Path]) -> Callable[..., Mixed]:
    def make(name: str = "run", **fields: Any) -> Mixed:
        parts = [(others[0], {"fraction": 0.25}), (others[1], {"fraction": 0.1, "max_epochs": 2.0})]
        return Mixed(tmp_path / name, tokens_folder, tokenizer_folder, **{"parts": parts, **fields})

    return make


def with_parts(own: Path, others: list[Path], fractions: tuple[Fraction, ...]) -> TokenFile:
    parts = tuple(MixedIn(open_corpus(folder).train, part) for folder, part in zip(others, fractions, strict=False))
    return replace(open_corpus(own).train, mixed_in=parts)


@settings(deadline=None)
@given(percents, st.integers(0, 500))
def test_every_kind_has_its_fraction_at_every_length_and_is_read_in_its_order(hundredths: list[int], total: int) -> None:
    assume(sum(hundredths) < 100)
    fractions = tuple(Fraction(part, 100) for part in hundredths)
    found: dict[int | None, list[int]] = {}
    for position in range(total):
        kind, number = kind_of(position, fractions)
        found.setdefault(kind, []).append(number)
    counts = counts_of(total, fractions)
    assert sum(counts) == total
    shares = (*fractions, 1 - sum(fractions))
    for kind, (count, share) in enumerate(zip(counts, shares, strict=True)):
        numbers = found.get(kind if kind < len(fractions) else None, [])
        assert numbers == list(range(count))
        assert abs(count - total * share) < len(shares)


def test_one_other_kind_is_mixed_as_replay_is() -> None:
    for position in range(1000):
        kind, number = kind_of(position, (Fraction(1, 3),))
        place = place_of(position, Fraction(1, 3))
        assert (kind == 0, number) == (place.is_replayed, place.position)


@settings(deadline=None, max_examples=40)
@given(
    batches=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    hundredths=st.tuples(st.integers(1, 45), st.integers(1, 45)),
)
def test_each_token_is_counted_however_a_run_is_cut(
    batches: list[int], hundredths: tuple[int, int], tokens_folder: Path, others: list[Path]
) -> None:
    """The rows of each kind are those that it would have alone, from its first on: none twice, none left out."""
    fractions = tuple(Fraction(part, 100) for part in hundredths)
    own = with_parts(tokens_folder, others, fractions)
    rows: list[list[int]] = []
    for size in batches:
        rows += training_batch(own, 16, 3, len(rows), size).inputs.tolist()
    counts = counts_of(len(rows), fractions)
    streams = [*(part.tokens for part in own.mixed_in), open_corpus(tokens_folder).train]
    alone: Counter[int] = Counter()
    for kind, (file, count) in enumerate(zip(streams, counts, strict=True)):
        expected = training_batch(file, 16, 3, 0, count).inputs.tolist() if count else []
        wanted = kind if kind < len(fractions) else None
        assert [row for position, row in enumerate(rows) if kind_of(position, fractions)[0] == wanted] == expected
        alone.update(token for row in expected for token in row)
    assert alone == Counter(token for row in rows for token in row)


def test_an_epoch_of_a_part_reads_each_of_its_windows_once(tokens_folder: Path, others: list[Path]) -> None:
    own = with_parts(tokens_folder, others, (Fraction(1, 4), Fraction(1, 10)))
    windows = count_windows(own.mixed_in[0].tokens, 16)
    rows = training_batch(own, 16, 3, 0, windows * 4).inputs.tolist()
    first = [tuple(row) for position, row in enumerate(rows) if kind_of(position, own.fractions)[0] == 0]
    assert len(first) == len(set(first)) == windows


def test_a_run_that_was_stopped_ends_with_the_same_weights_and_says_what_it_read(mixed: Callable[..., Mixed]) -> None:
    whole = mixed("whole")
    metrics = whole.run()
    assert (metrics["mixture_0_tokens"], metrics["mixture_1_tokens"]) == (24 * 32, 9 * 32)
    assert metrics["tokens"] == BATCH * 12
    assert metrics["mixture_0_epochs"] == pytest.approx(24 / 66)
    first = mixed("cut", settings={"checkpoint_every_tokens": BATCH})
    stop = StopRequest()
    with stop.listening(), pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        signal_before(patch, loop, "training_batch")
        first.run(stop)
    second = mixed("cut", number=2)
    assert second.run()["resumed_from_step"] > 0
    assert second.weights_digest() == whole.weights_digest()
    assert mixed("plain", parts=[]).run()["train_loss"] != metrics["train_loss"]


def test_data_that_would_be_read_too_often_is_refused_before_the_first_step(
    mixed: Callable[..., Mixed], others: list[Path]
) -> None:
    attempt = mixed(parts=[(others[0], {"fraction": 0.75, "max_epochs": 1.0})])
    with pytest.raises(StepError, match=r"mixture\[0\] would be read 1\.09 times \(72 sequences, and it has 66\), more than"):
        attempt.run()
    assert attempt.events() == []


def test_tokens_of_another_tokenizer_are_refused(mixed: Callable[..., Mixed], tmp_path: Path) -> None:
    folder = write_tokens(tmp_path / "foreign", [[300, 2]] * 40, [[300, 2]])
    (folder / "meta.json").write_text((folder / "meta.json").read_text().replace("512", "600"))
    with pytest.raises(StepError, match="vocab_size is 600, the model's own data has 512: another tokenizer made these"):
        mixed(parts=[(folder, {"fraction": 0.25})]).run()


def test_a_checkpoint_of_another_mixture_is_of_another_lineage(mixed: Callable[..., Mixed], others: list[Path]) -> None:
    parts = ([], [(others[0], {"fraction": 0.25})], [(others[0], {"fraction": 0.5})], [(others[0], {"fraction": 0.25})] * 2)
    assert len({read_job(mixed(parts=each).request()).lineage for each in parts}) == len(parts)
