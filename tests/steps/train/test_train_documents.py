"""Documents of one sequence that are kept apart: each is what it would be alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from forge.spec.architecture import Architecture
from forge.spec.extend import shared_steps, why_not_extended
from forge.steps.train.data import Batch, open_corpus
from forge.steps.train.model import LlamaForCausalLM, build_model, places_of

Make = Callable[..., Any]
EOS = 2
TOLERANCE = 1e-5
"""Largest difference of logits of size 1: a masked attention adds its products in another order than a shorter one."""
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def model_of(*, experts: bool) -> LlamaForCausalLM:
    family = {"family": "mixtral", "experts": EXPERTS} if experts else {"family": "llama"}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2}
    return build_model(Architecture.model_validate({**family, **shape, **more}), 512, seed=1)


def packed(sequences: int = 3, length: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 512, (sequences, length), generator=generator)
    tokens[torch.rand(sequences, length, generator=generator) < 0.08] = EOS
    return tokens


def pieces_of(row: list[int]) -> list[tuple[int, int]]:
    """Where each document begins and ends: at the end-of-text token before it."""
    begins = sorted({0, *(place for place, token in enumerate(row) if token == EOS)})
    return list(zip(begins, [*begins[1:], len(row)], strict=True))


@pytest.mark.parametrize("experts", [False, True])
def test_the_logits_of_a_packed_document_are_those_of_the_document_alone(experts: bool) -> None:
    model, tokens = model_of(experts=experts), packed()
    batch = Batch(tokens, tokens).apart(EOS)
    with torch.no_grad():
        together, mixed = model(tokens, None, batch.documents), model(tokens)
        for row, ids in enumerate(tokens.tolist()):
            pieces = pieces_of(ids)
            assert len(pieces) > 2
            for begin, end in pieces:
                alone = model(tokens[row : row + 1, begin:end])[0]
                assert (together[row, begin:end] - alone).abs().max().item() <= TOLERANCE * alone.abs().max().item()
            begin, end = pieces[-1]
            assert not torch.allclose(mixed[row, begin:end], together[row, begin:end], atol=1e-2)


def test_the_gradients_are_the_sum_of_those_of_the_documents_alone() -> None:
    tokens, targets = packed(), packed(seed=9)
    together, alone = model_of(experts=False), model_of(experts=False)
    together(tokens, targets, Batch(tokens, targets).apart(EOS).documents).backward()
    for row, ids in enumerate(tokens.tolist()):
        for begin, end in pieces_of(ids):
            alone(tokens[row : row + 1, begin:end], targets[row : row + 1, begin:end]).backward()
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(together.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_another_document_changes_no_bit_of_this_one() -> None:
    model, tokens = model_of(experts=False), torch.full((2, 40), 300)
    tokens[0, 13] = EOS
    tokens[1] = tokens[0]
    tokens[1, :13] = 77
    with torch.no_grad():
        logits = model(tokens, None, Batch(tokens, tokens).apart(EOS).documents)
    assert torch.equal(logits[0, 13:], logits[1, 13:])
    assert not torch.equal(logits[0, :13], logits[1, :13])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([EOS, 5, 6]), min_size=9, max_size=9), min_size=1, max_size=4))
def test_places_are_those_of_a_naive_count(rows: list[list[int]]) -> None:
    tokens = torch.tensor(rows)
    documents = Batch(tokens, tokens).apart(EOS).documents
    assert documents is not None
    places = places_of(documents)
    for row, ids in enumerate(rows):
        for begin, end in pieces_of(ids):
            assert places.positions_bs[row, begin:end].tolist() == list(range(end - begin))
            for place in range(begin, end):
                seen = places.visible_b1ss[row, 0, place].nonzero().flatten().tolist()
                assert seen == list(range(begin, place + 1))


APART = {"intra_document_masking": True}


def test_the_validation_loss_is_what_transformers_makes_of_each_document_alone(new_attempt: Make) -> None:
    attempt = new_attempt(training={**APART, "tokens": 256 * 40})
    metrics = attempt.run()
    theirs = AutoModelForCausalLM.from_pretrained(attempt.weights)
    tokens = [EOS, *(int(token) for token in open_corpus(attempt.tokens).validation.tokens)]
    summed = 0.0
    with torch.no_grad():
        for first in range(0, len(tokens) - 1, 32):
            window = tokens[first : first + 33]
            for begin, end in pieces_of(window[:-1]):
                scores = theirs(torch.tensor([window[begin:end]])).logits[0].log_softmax(dim=-1)
                summed -= math.fsum(float(scores[place - begin, window[place + 1]]) for place in range(begin, end))
    assert metrics["validation_loss"] == pytest.approx(summed / (len(tokens) - 1), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_give_the_same_bytes_and_the_option_gives_others(new_attempt: Make, precision: str) -> None:
    training = {"precision": precision}
    one, two = (new_attempt(name, training={**training, **APART}) for name in ("one", "two"))
    whole = new_attempt("whole", training=training)
    for attempt in (one, two, whole):
        attempt.run()
    assert one.weights_digest() == two.weights_digest() != whole.weights_digest()


def test_documents_of_experts_are_kept_apart_in_parts_of_a_batch_too(new_attempt: Make) -> None:
    """A batch of several parts is read twice: both times with its documents apart, or the two would not agree."""
    architecture = {"family": "mixtral", "experts": {**EXPERTS, "router_aux_loss_coef": 1.0}}
    losses = []
    for size in (8, 2):
        attempt = new_attempt(f"parts of {size}", architecture=architecture, training={**APART, "micro_batch_sequences": size})
        losses.append(attempt.run()["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_longer_training_of_documents_apart_goes_on_and_one_of_them_together_does_not(new_attempt: Make) -> None:
    short, long = (new_attempt(training={**APART, "tokens": 256 * steps}).request().parameters for steps in (12, 24))
    assert why_not_extended(short, long) is None
    assert shared_steps(short, long) == 9
    together = new_attempt(training={"tokens": 256 * 24}).request().parameters
    assert "training.intra_document_masking changed" in str(why_not_extended(short, together))
