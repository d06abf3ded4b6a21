"""One rank of a fine-tuning under torchrun, started as ``python -m forge.steps.finetune.worker REQUEST RESULT``."""

import sys
from pathlib import Path

from forge.steps.imports import quick_imports
from forge.steps.run import Metrics, StepRun
from forge.steps.train.job import read_job
from forge.steps.train.worker import main


def train_rank(run: StepRun, meeting_point: Path) -> Metrics:
    """Fine-tune one rank's share."""
    with quick_imports():
        from forge.steps.finetune import train

    return train(run, read_job(run.request), meeting_point)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], train_rank))
