"""Preferences as tokens: one prompt, and the two answers that follow it.

Invariant: the prompt's tokens are the same for both answers and are those that serving asks with, an answer ends with the
token that ends answers, and nothing follows it. So what is compared is how likely two answers to the same question are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from forge.errors import StepError
from forge.steps.finetune.examples import NO_LABEL, Example, batch_of, make_examples
from forge.steps.finetune.preferences import Preference
from forge.steps.finetune.template import ChatTemplate


@dataclass(frozen=True)
class Pair:
    """Token ids; each answer ends with the token that ends answers."""

    place: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Of both sequences: the prompt is read twice."""
        return 2 * len(self.prompt) + self.num_answer_tokens

    @property
    def num_answer_tokens(self) -> int:
        """Tokens whose likelihood counts."""
        return len(self.chosen) + len(self.rejected)


def make_pairs(
    preferences: Sequence[Preference], template: ChatTemplate, tokenizer: Tokenizer, sequence_length: int, eos: int
) -> list[Pair]:
    """Tokens of each preference; raises ``StepError``, with file and line, for one that does not fit."""
    chosen, rejected = (
        [_parts(each) for each in make_examples(answers, template, tokenizer, sequence_length, eos)]
        for answers in ([each.chosen for each in preferences], [each.rejected for each in preferences])
    )
    found = []
    for preference, (prompt, better), (same_prompt, worse) in zip(preferences, chosen, rejected, strict=True):
        if prompt != same_prompt:
            raise StepError(
                f"{preference.place}: the chat template writes the prompt otherwise before one answer than before the other; "
                "let nothing before an answer depend on it"
            )
        if better == worse:
            raise StepError(
                f"{preference.place}: chosen and rejected are the same tokens, though other text; change or remove the line"
            )
        found.append(Pair(preference.place, prompt, better, worse))
    return found


def sequences_of(pairs: Sequence[Pair], padding: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and attention mask, padded at the end: the chosen answers of all pairs, then the rejected ones."""
    answers = [(each.prompt, each.chosen) for each in pairs] + [(each.prompt, each.rejected) for each in pairs]
    return batch_of([Example(a + b, (*[NO_LABEL] * len(a), *b)) for a, b in answers], padding)


def _parts(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before the last answer, and the last answer; what the template writes after it is left out."""
    labels = example.labels
    end = max(place for place, label in enumerate(labels) if label != NO_LABEL) + 1
    start = max((place + 1 for place in range(end) if labels[place] == NO_LABEL), default=0)
    return example.input_ids[:start], example.input_ids[start:end]
