"""Which tokens a step sees, and that damaged token files are named."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.errors import StepError
from forge.steps.train.data import count_windows, open_corpus, training_batch, validation_batches, window_start


@given(tokens=st.integers(10, 400), length=st.integers(2, 9), seed=st.integers(0, 2**70), epoch=st.integers(0, 3))
def test_an_epoch_reads_every_window_once_and_stays_in_the_stream(tokens: int, length: int, seed: int, epoch: int) -> None:
    windows = (tokens - 1) // length
    starts = sorted(window_start(tokens, length, seed, epoch * windows + place) for place in range(windows))
    assert {later - earlier for earlier, later in pairwise(starts)} <= {length}
    assert starts[0] >= 0
    assert starts[-1] + length + 1 <= tokens


def test_epochs_are_shuffled_differently_and_by_the_seed() -> None:
    orders = [
        [window_start(1000, 10, seed, epoch * 99 + place) // 10 for place in range(99)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) != order for order in orders)


GOLDEN_STARTS = [418, 558, 508, 18, 270, 811]


def test_the_order_is_the_one_that_recorded_models_were_trained_in() -> None:
    assert [window_start(1000, 10, 17, position) for position in (0, 1, 2, 98, 99, 10**6)] == GOLDEN_STARTS


def test_a_batch_does_not_depend_on_how_it_is_cut(tokens_folder: Path) -> None:
    train = open_corpus(tokens_folder).train
    whole = training_batch(train, 32, 5, 40, 8)
    halves = [training_batch(train, 32, 5, position, 4) for position in (40, 44)]
    assert whole.inputs.tolist() == [row for half in halves for row in half.inputs.tolist()]
    assert whole.targets[:, :-1].tolist() == whole.inputs[:, 1:].tolist()


@pytest.mark.parametrize("length", [8, 32, 33])
def test_validation_sees_each_token_of_its_split_once_in_order(tokens_folder: Path, length: int) -> None:
    validation = open_corpus(tokens_folder).validation
    batches = list(validation_batches(validation, length, 4))
    targets = [token for batch in batches for token in batch.targets.flatten().tolist()]
    inputs = [token for batch in batches for token in batch.inputs.flatten().tolist()]
    assert targets == validation.tokens.tolist()
    assert inputs == [2, *targets[:-1]]


def test_thirty_two_bit_tokens_are_read(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 301, 2]] * 9, [[300, 2]] * 9)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "dtype": "uint32", "vocab_size": 70_000}))
    for name in ("train", "validation"):
        np.fromfile(folder / f"{name}.ds", "<u2").astype("<u4").tofile(folder / f"{name}.ds")
    assert open_corpus(folder).train.tokens[:3].tolist() == [300, 301, 2]


def test_a_truncated_token_file_is_named(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 301, 2]] * 9, [[300, 2]] * 9)
    (folder / "train.ds").write_bytes((folder / "train.ds").read_bytes()[:-6])
    with pytest.raises(StepError, match=r"train\.ds: expected 54 bytes .* found 48"):
        open_corpus(folder)


def test_a_file_that_ends_within_a_document_is_named(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 2]] * 9, [[300, 301]] * 9)
    with pytest.raises(StepError, match=r"validation\.ds: ends with token 301, expected the end of a document"):
        open_corpus(folder)


def test_an_empty_split_is_named(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 2]] * 9, [])
    with pytest.raises(StepError, match="the validation split is empty"):
        open_corpus(folder)


def test_a_newer_description_is_refused(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 2]] * 9, [[300, 2]] * 9)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "schema_version": 2}))
    with pytest.raises(StepError, match="schema_version"):
        open_corpus(folder)


def test_a_token_id_outside_the_vocabulary_is_named(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[600, 301, 2]] * 9, [[300, 2]] * 9)
    with pytest.raises(StepError, match=r"train\.ds: holds token id 600, .* a vocabulary of 512"):
        training_batch(open_corpus(folder).train, 8, 0, 0, 3)


def test_a_corpus_shorter_than_a_sequence_is_named(make_tokens: Callable[..., Path]) -> None:
    folder = make_tokens([[300, 2]] * 9, [[300, 2]] * 9)
    with pytest.raises(StepError, match="18 tokens do not fill one sequence of 18"):
        count_windows(open_corpus(folder).train, 18)
    assert count_windows(open_corpus(folder).train, 17) == 1
