"""The train step: packed tokens and a tokenizer become a Llama-family model in Hugging Face's format.

Invariant: for equal inputs, parameters, thread and process counts the weights are the same bytes on the same machine,
whether or not the run was interrupted: initialisation and data order are pure functions of the seed and the position,
and a checkpoint holds everything else that the next step depends on. That holds across keys too: a run of more tokens
that goes on from the checkpoint before a shorter one's decay gives the bytes of a run from scratch.

How the files hang together: ``job`` (what is asked) -> ``launch`` (one process, or torchrun) -> ``worker`` (one rank)
-> ``loop`` (steps, validation) over ``data``, ``model``, ``loss``, ``kernels``, ``optimizer``, ``schedule``, and over many
processes ``distributed`` and ``sharding``; ``keeping`` (what is written and taken up) over ``checkpoint``, ``shards`` and
``continuation`` -> ``export``.
"""

from forge.steps.run import Metrics, StepRun
from forge.steps.train.launch import launch


def run(run: StepRun) -> Metrics:
    """Train, and write the product ``weights``; raises ``StepError`` for what a user can mend."""
    return launch(run)
