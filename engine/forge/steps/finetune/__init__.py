"""Fine-tuning: a train step whose objective is ``sft``, done by TRL's trainer and peft's adapters.

Invariant: as for every training, equal inputs and parameters give equal bytes on the same machine, interrupted or not; and
the loss is that of the assistant's tokens alone.

How the files hang together: ``conversations`` (lines -> checked messages) -> ``template`` (messages -> text, and which of it
is learnt) -> ``examples`` (tokens and labels, in the order in which they are read) -> ``model`` (the base, and its adapter)
-> ``trainer`` (TRL, with checkpoints and events of ours).
"""

from forge.steps.finetune.run import train

__all__ = ["train"]
