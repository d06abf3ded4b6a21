"""Documents and a tokenizer -> token files: ``SPLIT.ds`` and ``SPLIT.ds.index``, in datatrove's format.

    SPLIT.ds        the documents' ids one after the other, each document ended by eos; little-endian uint16, or uint32
                    where the vocabulary has more than 65,536 ids
    SPLIT.ds.index  the place after each document's end, in tokens; little-endian uint64
    meta.json       number format, ids and counts, so that no reader needs to guess

Documents stay in their order: shuffling is the trainer's matter. datatrove's ``.metadata`` file is not kept, because it names
a path of this machine.
"""

import json
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
from loguru import logger
from tokenizers import Tokenizer

from forge.canonical import canonical_json
from forge.errors import StepError
from forge.steps.control_tokens import read_control_tokens
from forge.steps.documents import SPLITS, TextDocument, read_documents
from forge.steps.run import Metrics, StepRun
from forge.steps.tokenizer import TOKENIZER_FILE

META_FILE = "meta.json"
BATCH_DOCUMENTS = 256
_BATCH_TOKENS = 1 << 20
_REVERSIBLE = {"Replace", "Prepend"}
"""Normalizers that a decoder undoes."""
_COMPOSED: Final = "NFC"
"""The normaliser that writes a letter and its accent as one character: another spelling of the same text (Qwen's)."""


def run(run: StepRun) -> Metrics:
    """Write the product ``tokens``; raises StepError where ids do not give the text back."""
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    documents, path = run.input("documents"), run.input("tokenizer") / TOKENIZER_FILE
    if not path.is_file():
        raise StepError(f"{run.request.subject}: the tokenizer holds no {TOKENIZER_FILE}")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # a document that spells a control token of a base has its letters, not the token
    control = read_control_tokens(run.input("tokenizer"))
    bos, eos = (tokenizer.token_to_id(token) for token in (control.before_text, control.eos))
    if bos is None or eos is None:
        raise StepError(f"{run.request.subject}: {control.before_text} and {control.eos} have ids {[bos, eos]} in {path}")
    product = run.product("tokens")
    splits: dict[str, dict[str, int]] = {}
    dtype = np.dtype("<u2")
    for number, split in enumerate(SPLITS):
        run.emit(message=f"tokenizing {split}", fraction=number / len(SPLITS))
        writer = DocumentTokenizer(
            str(product),
            tokenizer_name_or_path=str(path),
            eos_token=control.eos,
            shuffle_documents=False,
            save_final_metadata=False,
            batch_size=BATCH_DOCUMENTS,
            seed=0,
        )
        writer.tokenizer.encode_special_tokens = True
        counts = {"documents": 0, "tokens": 0, "bytes": 0}
        written = writer.write_unshuffled(_counted(documents, split, counts), f"{split}.ds")
        counts["tokens"] = len(written)
        if counts["documents"] == 0:
            raise StepError(f"{run.request.subject}: the {split} split holds no document")
        dtype = np.dtype("<u4" if writer.token_size == 4 else "<u2")
        if (lost := _first_lost(tokenizer, eos, read_documents(documents, split), product / f"{split}.ds", dtype)) is not None:
            raise StepError(
                f"{run.request.subject}: {split} document {lost!r} does not come back from its tokens{_why(tokenizer)}"
            )
        splits[split] = counts
    meta = {
        "schema_version": 1,
        "dtype": dtype.name,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": eos,
        "bos_token_id": bos,
        "splits": splits,
    }
    (product / META_FILE).write_bytes(canonical_json(meta) + b"\n")
    run.emit(message="token files written", fraction=1.0, tokens=splits["train"]["tokens"])
    return {
        "tokens_train": splits["train"]["tokens"],
        "tokens_validation": splits["validation"]["tokens"],
        "bytes_per_token": splits["train"]["bytes"] / splits["train"]["tokens"],
    }


def _counted(documents: Path, split: str, counts: dict[str, int]) -> Iterator[Document]:
    for document in read_documents(documents, split):
        counts["documents"] += 1
        counts["bytes"] += len(document.text.encode("utf-8"))
        yield Document(text=document.text, id=document.id)


def _first_lost(tokenizer: Tokenizer, eos: int, documents: Iterator[TextDocument], tokens: Path, dtype: np.dtype) -> str | None:
    """The id of the first document whose text its tokens do not give back; all are decoded, for any may be the only one.

    A tokenizer that composes accents may give back the composed spelling: to Unicode the two are equal.
    """
    composes = _COMPOSED in _normalizers(tokenizer)
    for found in _batches(tokens, dtype):
        texts = tokenizer.decode_batch([own[:-1] for own in found], skip_special_tokens=False)
        for own, text, document in zip(found, texts, islice(documents, len(found)), strict=True):
            if not own or own[-1] != eos:
                return document.id
            if text != document.text and not (composes and _composed(text) == _composed(document.text)):
                return document.id
    return None


def _composed(text: str) -> str:
    """Of what came back too: Python's tables of Unicode and the tokenizer's are of different years."""
    return unicodedata.normalize(_COMPOSED, text)


def _batches(tokens: Path, dtype: np.dtype) -> Iterator[list[list[int]]]:
    """The ids of some documents at a time, as they lie in a token file."""
    ids = np.memmap(tokens, dtype=dtype, mode="r")
    found: list[list[int]] = []
    start = size = 0
    for end in np.memmap(f"{tokens}.index", dtype="<u8", mode="r").tolist():
        found.append(ids[start:end].tolist())
        size += end - start
        start = end
        if len(found) == BATCH_DOCUMENTS or size > _BATCH_TOKENS:
            yield found
            found, size = [], 0
    if found:
        yield found


def _why(tokenizer: Tokenizer) -> str:
    """What of the tokenizer may have lost text, where it is its normaliser."""
    kinds = sorted(_normalizers(tokenizer) - _REVERSIBLE - {_COMPOSED})
    if not kinds:
        return ""
    return f": the tokenizer's normalizer ({', '.join(kinds)}) changes text; take a base whose tokenizer keeps it"


def _normalizers(tokenizer: Tokenizer) -> set[str]:
    return _kinds(json.loads(tokenizer.to_str()).get("normalizer"))


def _kinds(normalizer: Any) -> set[str]:
    if not isinstance(normalizer, dict):
        return set()
    if "normalizers" in normalizer:
        return {kind for each in normalizer["normalizers"] for kind in _kinds(each)}
    return {str(normalizer.get("type"))}
