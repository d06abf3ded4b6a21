"""A loss that has risen far above what it was: the end of a training that would spend the rest on a model that is lost.

Losses of single steps scatter, most of all where batches are small. So a rise is measured from the lowest mean of some steps to
the median of the last ones, which neither one bad batch nor two move, and where the scatter of single steps is large it
has to be larger. Rules:
1. The scatter is estimated from differences of successive losses, by their median: a trend is no scatter, and a few wild steps
   do not count.
2. A training has risen, and ends, where that median lies more than the margin above the lowest mean: ``max_loss_rise``, or so
   many times the scatter where that is more.
3. It is calm where neither the median lies well above the lowest mean (a smaller margin), nor the last loss by more than the
   whole margin. The loss of a step judges the weights before it: a checkpoint is good once a step after it was calm.
4. What is remembered (``Losses``) is part of every checkpoint, so a resumed training ends at the step where an undisturbed one
   does. It decides nothing but whether to go on, and which checkpoints stay.
"""

import math
from dataclasses import dataclass
from statistics import median

from forge.errors import StepError
from forge.steps.train.job import TrainJob

STEPS_OF_A_MEAN = 8
"""Steps of a mean, and of the median that is held against the lowest one."""
STEPS_REMEMBERED = 64
"""Steps whose scatter is estimated."""
SCATTERS = 5.0
"""The margin is so many times the scatter at least: the lowest of a million means lies 1.9 times the scatter of single steps
below their expectation, and the highest median of eight 2.2 times above it."""
_CALM_SHARE, _CALM_SCATTERS = 0.25, 2.0
"""The same of a calm one, by the share of ``max_loss_rise``: where noise alone is at work, more steps are calm than not."""
_NORMAL = 1.4826 / math.sqrt(2)
"""From the median of absolute differences of two normal numbers to their standard deviation."""


@dataclass(frozen=True)
class Losses:
    """What a training remembers of its losses, in nats per token."""

    recent: tuple[float, ...] = ()
    """Of the last steps, at most ``STEPS_REMEMBERED``."""
    lowest_mean: float | None = None
    """Over ``STEPS_OF_A_MEAN`` steps."""

    def then(self, loss: float) -> "Losses":
        """After one step more."""
        recent = (*self.recent, loss)[-STEPS_REMEMBERED:]
        if len(recent) < STEPS_OF_A_MEAN:
            return Losses(recent, self.lowest_mean)
        mean = sum(recent[-STEPS_OF_A_MEAN:]) / STEPS_OF_A_MEAN
        return Losses(recent, mean if self.lowest_mean is None else min(self.lowest_mean, mean))

    @property
    def level(self) -> float | None:
        """The median of the last steps; None before there are enough."""
        return median(self.recent[-STEPS_OF_A_MEAN:]) if len(self.recent) >= STEPS_OF_A_MEAN else None

    @property
    def scatter(self) -> float:
        """The standard deviation of a single step's loss, estimated robustly; 0 where nothing is known."""
        steps = [abs(after - before) for before, after in zip(self.recent, self.recent[1:], strict=False)]
        return _NORMAL * median(steps) if steps else 0.0


def margin_of(losses: Losses, max_rise: float) -> float:
    """Nats per token above the lowest mean that are no rise."""
    return max(max_rise, SCATTERS * losses.scatter)


def has_risen(losses: Losses, max_rise: float | None) -> bool:
    """Whether to end the training; ``max_rise`` is ``training.max_loss_rise``."""
    if max_rise is None or losses.lowest_mean is None or losses.level is None:
        return False
    return losses.level > losses.lowest_mean + margin_of(losses, max_rise)


def is_calm(losses: Losses, max_rise: float | None) -> bool:
    """Whether the last step says nothing against the weights that it began with."""
    if max_rise is None or losses.lowest_mean is None:
        return True
    small = max(_CALM_SHARE * max_rise, _CALM_SCATTERS * losses.scatter)
    level = losses.lowest_mean if losses.level is None else losses.level
    return level <= losses.lowest_mean + small and losses.recent[-1] <= losses.lowest_mean + margin_of(losses, max_rise)


def risen_error(job: TrainJob, step: int, losses: Losses, rate: float, good: tuple[int, float] | None) -> StepError:
    """What to say where the loss has risen at a step (from 1); ``good``: step and loss of the checkpoint that is kept."""
    limit = job.training.max_loss_rise or 0.0
    is_wide = margin_of(losses, limit) > limit
    allowed = f"{SCATTERS:g} times the scatter of single steps" if is_wide else f"training.max_loss_rise ({limit})"
    return StepError(
        f"{job.subject}: at step {step} of {job.total_steps} the loss has risen: the median of the last {STEPS_OF_A_MEAN} "
        f"steps is {losses.level:.4f}, more than {allowed} above the lowest mean of {STEPS_OF_A_MEAN} steps before "
        f"({losses.lowest_mean:.4f}; learning rate {rate:.3g}). {_what_is_kept(good)}"
    )


class NotFiniteError(StepError):
    """Loss or gradient is not finite; the optimiser has not taken this step."""

    def __init__(self, job: TrainJob, step: int, what: str) -> None:
        self.told = f"at step {step} of {job.total_steps} {what}"
        super().__init__(f"{job.subject}: {self.told}; expected finite numbers. {_NOT_FINITE}")

    def end_of_trial(self) -> str:
        """What is said where this is the end of a trial, and no failure (``TrainJob.searched``)."""
        return f"{self.told}: this trial has diverged, and ends with the weights that it had before that step"


_NOT_FINITE = (
    "The next attempt goes on from the last checkpoint and takes the same steps, to the same end: a lower optimizer.lr, a "
    "longer schedule.warmup_tokens or an optimizer.gradient_clip_norm make another model, trained from its first step"
)


def _what_is_kept(good: tuple[int, float] | None) -> str:
    others = (
        "a lower optimizer.lr, a longer schedule.warmup_tokens, an optimizer.gradient_clip_norm or other data make another "
        "model, trained from its first step"
    )
    if good is None:
        return f"No checkpoint from before the rise is kept: {others}; a higher max_loss_rise, or null, lets this one go on"
    return (
        f"The checkpoint of step {good[0]} (loss {good[1]:.4f}) is kept, and the next attempt goes on from there, by the same "
        f"steps: only a higher max_loss_rise, or null, takes it further; {others}"
    )
