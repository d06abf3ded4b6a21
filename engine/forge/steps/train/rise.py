"""A loss that rises far above what it was: the end of a training that would spend the rest on a model that is lost."""

import math
from collections import deque

from forge.errors import StepError
from forge.steps.train.job import TrainJob

STEPS_OF_A_MEAN = 8
"""Losses of single steps scatter; a rise is measured against the mean of so many."""


class LossWatch:
    """The losses of the last steps of one attempt."""

    def __init__(self, job: TrainJob) -> None:
        self._job = job
        self._recent: deque[float] = deque(maxlen=STEPS_OF_A_MEAN)

    def check(self, step: int, loss: float, rate: float, lowest: float | None) -> float | None:
        """The lowest mean of losses (nats per token) with this one; ``lowest`` is that of the steps before it.

        Raises ``StepError`` where the loss of the step after ``step`` steps, and the one before it, are more than
        ``training.max_loss_rise`` above it: the second, because one batch of bad data says nothing of the model.
        """
        limit = self._job.training.max_loss_rise
        before = self._recent[-1] if self._recent else -math.inf
        if limit is not None and lowest is not None and min(before, loss) > lowest + limit:
            raise StepError(
                f"{self._job.subject}: at step {step + 1} of {self._job.total_steps} the loss is {loss:.4f}, for the second "
                f"time more than training.max_loss_rise ({limit}) above the lowest mean of {STEPS_OF_A_MEAN} steps before "
                f"({lowest:.4f}; learning rate {rate:.3g}). The weights before this step are kept in the last checkpoint; "
                "lower optimizer.lr, lengthen schedule.warmup_tokens, look at the data of this step, or raise max_loss_rise"
            )
        self._recent.append(loss)
        if len(self._recent) < STEPS_OF_A_MEAN:
            return lowest
        mean = sum(self._recent) / STEPS_OF_A_MEAN
        return mean if lowest is None else min(lowest, mean)
