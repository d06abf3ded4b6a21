"""Packed token files and the order in which training reads them.

Rules:
1. Window ``i`` of an epoch holds ``sequence_length`` inputs and the same number of targets, one further: neighbouring
   windows share one token, so that every token of the stream but its first is a target.
2. Which window stands at a position is a pure function of (seed, position): position // windows is the epoch, and every
   epoch reads all windows once in a permutation of its own. It depends neither on the number of tokens asked for, nor
   on batch size, nor on the number of processes.
3. The tokens that do not fill a window (fewer than one window) are left out at another place each epoch: an epoch's
   windows start at an offset of its own.
4. Where other data is replayed or mixed in, ``mixture`` says which positions are of which data; each is read in its own order.
5. Where documents are kept apart, a document begins with the end-of-text token of the one before it, which is what its first
   token is predicted from; at the beginning of a window whatever document reaches into it begins anew.
6. Validation reads its own file from end to end; each document ends with the end-of-text token, which is therefore also
   what stands before the first token of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from forge.errors import StepError
from forge.steps.train.mixture import kind_of, place_of

META_FILE = "meta.json"
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class Split(BaseModel):
    """The size of one split."""

    model_config = ConfigDict(frozen=True)

    documents: int
    tokens: int
    bytes: int
    """UTF-8 size of the split's text."""


class TokensMeta(BaseModel):
    """``meta.json`` of the product ``tokens``."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1]
    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_token_id: int
    bos_token_id: int
    splits: dict[str, Split]


@dataclass(frozen=True)
class TokenFile:
    """One split's token stream, mapped and not read."""

    path: Path
    tokens: NDArray[Any]
    split: Split
    vocab_size: int
    eos_token_id: int
    mixed_in: "tuple[MixedIn, ...]" = ()
    """Other streams whose sequences stand among this one's, when a training reads it."""

    @cached_property
    def fractions(self) -> tuple[Fraction, ...]:
        """Of all sequences, for each stream that is mixed in."""
        return tuple(part.fraction for part in self.mixed_in)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class MixedIn:
    """Other data among a model's own."""

    tokens: TokenFile
    fraction: Fraction
    """Of the sequences of both and of all others that are mixed in."""


@dataclass(frozen=True)
class Corpus:
    """Both splits and what is known of them."""

    meta: TokensMeta
    train: TokenFile
    validation: TokenFile


@dataclass(frozen=True)
class Replay:
    """Other data whose sequences stand among a model's own."""

    tokens: TokenFile
    fraction: Fraction


@dataclass(frozen=True)
class Batch:
    """Token ids and, at each place, the id that follows; both int64 of shape [sequences, length]."""

    inputs: torch.Tensor
    targets: torch.Tensor
    documents: torch.Tensor | None = None
    """At each place, the number of its document within the sequence, from 0 or 1; None: documents are not kept apart."""

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        documents = None if self.documents is None else self.documents.to(device, non_blocking=True)
        return Batch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), documents)

    def apart(self, eos_token_id: int) -> "Batch":
        """The same with its documents kept apart."""
        return replace(self, documents=(self.inputs == eos_token_id).cumsum(dim=1))


def open_corpus(folder: Path) -> Corpus:
    """Map the product ``tokens``; raises ``StepError`` where files and ``meta.json`` contradict each other."""
    path = folder / META_FILE
    try:
        meta = TokensMeta.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StepError(f"{path}: not the description of a token file: {error}") from error
    return Corpus(meta, _open_split(folder, meta, "train"), _open_split(folder, meta, "validation"))


def count_windows(tokens: TokenFile, sequence_length: int) -> int:
    """Windows of one epoch; raises ``StepError`` for a file that does not fill one."""
    windows = (len(tokens) - 1) // sequence_length
    if windows < 1:
        raise StepError(
            f"{tokens.path}: {len(tokens)} tokens do not fill one sequence of {sequence_length} and its last target; "
            "add documents or shorten training.sequence_length"
        )
    return windows


@lru_cache(maxsize=40)
def epoch_order(seed: int, epoch: int, windows: int, spare_tokens: int) -> tuple[NDArray[np.int64], int]:
    """The permutation of an epoch's windows and the offset of its first one, 0..spare_tokens.

    The cache holds the epochs that a batch of all kinds of data of a mixture can straddle; callers do not write to the array.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    offset = int(generator.integers(spare_tokens + 1))
    order = generator.permutation(windows)
    order.setflags(write=False)
    return order, offset


def window_start(tokens: int, sequence_length: int, seed: int, position: int) -> int:
    """Where in a stream of ``tokens`` the window at ``position`` of the training begins."""
    windows = (tokens - 1) // sequence_length
    epoch, place = divmod(position, windows)
    order, offset = epoch_order(seed, epoch, windows, (tokens - 1) % sequence_length)
    return offset + int(order[place]) * sequence_length


def training_batch(
    tokens: TokenFile, sequence_length: int, seed: int, position: int, sequences: int, replay: Replay | None = None
) -> Batch:
    """The windows at ``position`` .. ``position + sequences`` of the training."""
    rows = []
    for index in range(position, position + sequences):
        file, number = tokens, index
        if replay is not None:
            place = place_of(index, replay.fraction)
            file, number = replay.tokens if place.is_replayed else tokens, place.position
        if file.mixed_in:
            kind, number = kind_of(number, file.fractions)
            file = file if kind is None else file.mixed_in[kind].tokens
        start = window_start(len(file), sequence_length, seed, number)
        rows.append(file.tokens[start : start + sequence_length + 1].astype(np.int64))
        _check_ids(rows[-1], file)
    windows = torch.from_numpy(np.stack(rows))
    return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


def validation_batches(tokens: TokenFile, sequence_length: int, sequences: int) -> Iterator[Batch]:
    """The whole split in order, each token a target once; the last batch may be a single shorter sequence."""
    full = len(tokens) // sequence_length
    for first in range(0, full, sequences):
        yield _stretch(tokens, first * sequence_length, min(sequences, full - first), sequence_length)
    rest = len(tokens) - full * sequence_length
    if rest:
        yield _stretch(tokens, full * sequence_length, 1, rest)


def _stretch(tokens: TokenFile, start: int, rows: int, columns: int) -> Batch:
    targets = tokens.tokens[start : start + rows * columns].astype(np.int64)
    _check_ids(targets, tokens)
    before = tokens.eos_token_id if start == 0 else int(tokens.tokens[start - 1])
    inputs = np.concatenate([np.array([before], dtype=np.int64), targets[:-1]])
    return Batch(torch.from_numpy(inputs).view(rows, columns), torch.from_numpy(targets).view(rows, columns))


def _check_ids(ids: NDArray[np.int64], tokens: TokenFile) -> None:
    highest = int(ids.max())
    if highest >= tokens.vocab_size:
        raise StepError(
            f"{tokens.path}: holds token id {highest}, but its {META_FILE} gives a vocabulary of {tokens.vocab_size}; "
            "the file is damaged or was made with another tokenizer"
        )


def _open_split(folder: Path, meta: TokensMeta, name: str) -> TokenFile:
    path = folder / f"{name}.ds"
    split = meta.splits.get(name)
    if split is None:
        raise StepError(f"{folder / META_FILE}: describes no split {name!r}")
    if split.tokens < 1 or split.bytes < 1:
        raise StepError(f"{path}: the {name} split is empty; the recipe's split or filters leave no document for it")
    dtype = _DTYPES[meta.dtype]
    expected = split.tokens * dtype.itemsize
    if not path.is_file() or path.stat().st_size != expected:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise StepError(f"{path}: expected {expected} bytes ({split.tokens} tokens of {meta.dtype}), found {found}")
    tokens = np.memmap(path, dtype=dtype, mode="r")
    if int(tokens[-1]) != meta.eos_token_id:
        raise StepError(f"{path}: ends with token {int(tokens[-1])}, expected the end of a document ({meta.eos_token_id})")
    ends = np.fromfile(folder / f"{name}.ds.index", dtype="<u8")
    if len(ends) != split.documents or int(ends[-1]) != split.tokens:
        raise StepError(
            f"{path}.index: lists {len(ends)} documents, expected {split.documents} with the last end at {split.tokens}"
        )
    return TokenFile(path, tokens, split, meta.vocab_size, meta.eos_token_id)
