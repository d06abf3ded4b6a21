"""Deployment: which model an environment serves, under which policy, once which gates are passed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from forge.spec.fields import EvalSuiteRef, InferencePolicyRef, ModelRef, Name, Part
from forge.spec.meaning import REBUILD, RELOAD


class Threshold(Part):
    """A bound that one metric of one task has to keep; exactly one of ``min`` and ``max``."""

    task: Annotated[str, Field(min_length=1), REBUILD]
    metric: Annotated[str, Field(min_length=1), REBUILD]
    """lm-eval's name, without the filter: ``acc``, ``bits_per_byte``."""
    min: Annotated[float | None, REBUILD] = None
    max: Annotated[float | None, REBUILD] = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ValueError("a threshold has exactly one of min and max")
        return self


class Gate(Part):
    """What the model must reach in one suite before it may be released."""

    suite: Annotated[EvalSuiteRef, REBUILD]
    thresholds: Annotated[list[Threshold], Field(min_length=1), REBUILD]


class Engine(Part):
    """How vLLM runs the model."""

    dtype: Annotated[Literal["float32", "bfloat16", "auto"], RELOAD] = "auto"
    max_model_len: Annotated[int | None, Field(ge=8), RELOAD] = None
    """Longest prompt and answer together, in tokens; None: the model's own limit."""
    max_num_seqs: Annotated[int, Field(ge=1), RELOAD] = 32
    """Requests that are decoded together."""
    kv_cache_gib: Annotated[int, Field(ge=1), RELOAD] = 1


class DeploymentSpec(Part):
    """The body of a Deployment."""

    environment: Annotated[Name, RELOAD]
    model: Annotated[ModelRef, RELOAD]
    policy: Annotated[InferencePolicyRef, RELOAD]
    gates: Annotated[list[Gate], Field(min_length=1), REBUILD]
    """Every gate has to be passed; a model without an evaluation is not released."""
    engine: Annotated[Engine, RELOAD] = Engine()

    @model_validator(mode="after")
    def _names_each_suite_once(self) -> Self:
        suites = [gate.suite for gate in self.gates]
        if len(set(suites)) != len(suites):
            raise ValueError("a suite stands in two gates: put its thresholds into one")
        return self
