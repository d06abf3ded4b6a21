"""Fine-tuning: a train step whose objective is ``sft`` or ``dpo``, done by TRL's trainers and peft's adapters.

Invariant: as for every training, equal inputs and parameters give equal bytes on the same machine, interrupted or not; and
what counts is the assistant's tokens alone.

How the files hang together: ``lines`` (files -> objects) -> ``conversations`` and ``preferences`` (objects -> checked messages)
-> ``cleaning`` (without personal data, and without what repeats an evaluation suite)
-> ``template`` (messages -> text, and which of it is learnt) -> ``examples`` and ``pairs`` (tokens and labels, in the order in
which they are read) -> ``sft`` and ``dpo`` (each a ``lesson``: the rows of one objective, and TRL's trainer of them); ``model``
(the base, and its adapter) -> ``trainer`` (the loop around any lesson, with checkpoints and events of ours).
"""

from forge.steps.finetune.run import train

__all__ = ["train"]
