"""Training documents -> a tokenizer: learnt by sentencepiece, written as tokenizer.json, proved to give text back.

Invariant: decode(encode(text)) == text for every text without control tokens (``control_tokens``): no normalisation, no
prefix space, bytes for what no piece covers. It is checked here on documents and on lines that break other tokenizers.

The same documents and parameters give the same bytes: the number of threads is fixed (Unigram's result depends on it, not on
the cores of the machine), and what sentencepiece records of the run (paths, prefix, threads) is cleared from its model.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from forge.canonical import canonical_json
from forge.contract.control_tokens import BOS_ID, BOS_TOKEN, EOS_ID, EOS_TOKEN, SPACE_MARK, UNK_ID, UNK_TOKEN
from forge.errors import StepError
from forge.steps.documents import document_files, read_documents
from forge.steps.run import Metrics, StepRun

TOKENIZER_FILE = "tokenizer.json"
MODEL_FILE = "sentencepiece.model"
MAX_TRAINING_BYTES = 256 * 1024 * 1024
"""Larger corpora are sampled by a hash of the text: sentencepiece holds its input in memory, and learns no more from more."""
MAX_LINE_CHARACTERS = 4096
"""Longer lines are cut: sentencepiece would leave out whole lines over its limit without a word."""
CHECKED_DOCUMENTS = 200

HARD_LINES = (
    "",
    " ",
    "  leading and  double  spaces ",
    "\tdef f(x):\r\n\t\treturn x  # CRLF\r\n",
    "NUL \x00 and other controls \x01\x1b[31m\x7f\x85\u2028\u2029\ufeff",
    "emoji \U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea",
    "letters beyond the basic plane \U0001d518\U0001d52b\U0001d526",
    "naïve café nai\u0308ve ﬁ Ⅷ ½ İstanbul ß ẞ",
    "日本語テキスト 한국어 العربية עברית हिन्दी ไทย",
    "non-breaking\u00a0space, ideographic\u3000space, zero\u200bwidth, soft\u00adhyphen",
    "#!/bin/sh\nif [ -z \"$1\" ]; then\n    echo 'usage: $0 <file>' >&2\nfi\n\n\n",
    "0123456789 3.14159 1e-10 0xDEADBEEF 192.168.0.1 +49 (0)30",
    "<html><s >&lt;/s&gt;</html> <|im_start|> [INST] {{ x }} < /s> <0x> 0x0A>",
    "a" * 300 + "\n" + "=" * 200 + "\n" + "\ud7ff\ue000\ufffd\U0010ffff",
)


def run(run: StepRun) -> Metrics:
    """Write the product ``tokenizer``; raises StepError for a vocabulary that the corpus cannot give."""
    documents = run.input("documents")
    run.emit(message="learning the vocabulary", fraction=0.0)
    model = learn(_sample(documents), run.parameters, run.request.subject)
    tokenizer = convert(model)
    run.emit(message="checking that text comes back", fraction=0.9)
    checked = _check(tokenizer, documents, run.request.subject)
    product = run.product("tokenizer")
    (product / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    (product / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    tokens = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN}
    (product / "special_tokens_map.json").write_bytes(canonical_json(tokens) + b"\n")
    config = {**tokens, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (product / "tokenizer_config.json").write_bytes(canonical_json(config) + b"\n")
    run.emit(message="tokenizer written", fraction=1.0)
    return {"vocab_size": tokenizer.get_vocab_size(), **checked}


def learn(lines: Iterator[str], parameters: dict[str, Any], subject: str) -> Any:
    """Train sentencepiece; returns its model as a protobuf message without traces of the run."""
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=written,
            model_type=parameters.get("algorithm", "bpe"),
            vocab_size=parameters["vocab_size"],
            character_coverage=parameters.get("character_coverage", 0.9995),
            split_digits=parameters.get("split_digits", True),
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=-1,
            max_sentence_length=4 * MAX_LINE_CHARACTERS + 1,
            num_threads=4,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StepError(
            f"{subject}: sentencepiece cannot learn {parameters['vocab_size']} pieces from these documents: {reason}"
        ) from error
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    for name in ("input", "model_prefix", "num_threads"):
        model.trainer_spec.ClearField(name)
    return model


def convert(model: Any) -> Tokenizer:
    """The sentencepiece model as a tokenizer of the ``tokenizers`` library, which trainers and servers load."""
    from transformers.tokenization_utils_base import generate_merges

    pieces = model.pieces
    if model.trainer_spec.model_type == model.trainer_spec.BPE:
        vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
        not_text = {piece.piece for piece in pieces if piece.type != piece.NORMAL}
        merges = generate_merges(vocabulary, skip_tokens=not_text)
        tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=UNK_TOKEN, fuse_unk=True, byte_fallback=True))
    else:
        scored = [(piece.piece, piece.score) for piece in pieces]
        tokenizer = Tokenizer(Unigram(scored, unk_id=UNK_ID, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE_MARK)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [AddedToken(token, special=True, normalized=False) for token in (UNK_TOKEN, BOS_TOKEN, EOS_TOKEN)]
    tokenizer.add_special_tokens(special)
    found = [tokenizer.token_to_id(token.content) for token in special]
    if found != [UNK_ID, BOS_ID, EOS_ID]:
        raise RuntimeError(f"control tokens have ids {found}, expected {[UNK_ID, BOS_ID, EOS_ID]}")
    return tokenizer


def _sample(documents: Path) -> Iterator[str]:
    """Lines of the training documents, of a share of them where there are too many."""
    size = sum(path.stat().st_size for path in document_files(documents, "train"))
    share = min(1.0, MAX_TRAINING_BYTES / max(1, size))
    for document in read_documents(documents, "train"):
        if share < 1.0 and int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:8]) / 2**64 >= share:
            continue
        for line in document.text.split("\n"):
            for start in range(0, len(line), MAX_LINE_CHARACTERS):
                yield line[start : start + MAX_LINE_CHARACTERS]


def _check(tokenizer: Tokenizer, documents: Path, subject: str) -> dict[str, float | int]:
    """Compare texts with what comes back; returns counts for the metrics."""
    texts = list(HARD_LINES)
    size = tokens = 0
    for number, document in enumerate(read_documents(documents, "train")):
        if number == CHECKED_DOCUMENTS:
            break
        texts.append(document.text)
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if back != text:
            raise StepError(f"{subject}: {_difference(text, back)}")
        size, tokens = size + len(text.encode("utf-8")), tokens + len(ids)
    return {"round_trips_checked": len(texts), "bytes_per_token": size / max(1, tokens)}


def _difference(text: str, back: str) -> str:
    place = next((at for at, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    before = text[max(0, place - 10) : place + 20]
    after = back[max(0, place - 10) : place + 20]
    return f"the tokenizer does not give text back: {before!r} becomes {after!r}; curate such text out of the documents"
