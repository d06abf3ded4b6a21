"""Conversations as tokens, with a label for each token of an answer and for no other; and the order they are read in.

The mask is exact: a token that would lie partly inside an answer is refused, for at serving the answer begins at a token.
The order is ``steps.train.data``'s: a permutation of its own for every pass, a function of seed and position alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from forge.errors import StepError
from forge.steps.finetune.conversations import Conversation
from forge.steps.finetune.template import ChatTemplate
from forge.steps.train.data import epoch_order

NO_LABEL = -100
"""transformers' and TRL's mark of a token that is not learnt."""


@dataclass(frozen=True)
class Example:
    """One conversation's tokens; ``labels`` are the token ids of the answers, and NO_LABEL elsewhere."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that are learnt."""
        return sum(label != NO_LABEL for label in self.labels)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that the base was trained with."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def make_examples(
    conversations: Sequence[Conversation], template: ChatTemplate, tokenizer: Tokenizer, sequence_length: int, eos: int
) -> list[Example]:
    """Tokens and labels of each conversation; raises ``StepError``, with file and line, for one that does not fit.

    ``eos``: the id of the token that ends an answer.
    """
    return [_example(each, template, tokenizer, sequence_length, eos) for each in conversations]


def read_order(examples: int, seed: int, positions: int) -> list[int]:
    """Which example stands at each position of a training."""
    passes = -(-positions // examples)
    return [int(index) for epoch in range(passes) for index in epoch_order(seed, epoch, examples, 0)[0]][:positions]


def batch_of(examples: Sequence[Example], padding: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and attention mask, padded at the end; each int64 of shape [examples, longest]."""
    longest = max(len(each.input_ids) for each in examples)
    rows = [[*each.input_ids, *[padding] * (longest - len(each.input_ids))] for each in examples]
    labels = [[*each.labels, *[NO_LABEL] * (longest - len(each.labels))] for each in examples]
    mask = [[int(place < len(each.input_ids)) for place in range(longest)] for each in examples]
    return torch.tensor(rows), torch.tensor(labels), torch.tensor(mask)


def _example(conversation: Conversation, template: ChatTemplate, tokenizer: Tokenizer, limit: int, eos: int) -> Example:
    rendered = template.render(conversation.as_dicts(), conversation.place)
    encoded = tokenizer.encode(rendered.text, add_special_tokens=False)
    if len(encoded.ids) > limit:
        raise StepError(
            f"{conversation.place}: is {len(encoded.ids)} tokens long, training.sequence_length is {limit}; nothing is cut: "
            "raise it, or shorten the conversation"
        )
    labels = [NO_LABEL] * len(encoded.ids)
    for first, last in rendered.answers:
        for place, (start, end) in enumerate(encoded.offsets):
            if first <= start and end <= last and start < end:
                labels[place] = encoded.ids[place]
            elif start < last and first < end:
                raise StepError(
                    f"{conversation.place}: the token {encoded.tokens[place]!r} lies across the edge of an answer; let the "
                    "chat template put a control token, or a line end that no text of the tokenizer follows, before answers"
                )
    found = Example(tuple(encoded.ids), tuple(labels))
    if sum(label == eos for label in labels) != len(rendered.answers):
        token = tokenizer.id_to_token(eos)
        raise StepError(f"{conversation.place}: {token} is not one token of this tokenizer, or an answer holds it twice")
    return found
