"""EvalSuite: lm-eval tasks in the repository, and how they are run."""

from typing import Annotated

from pydantic import Field

from forge.spec.fields import ContentOf, Part, RepoPath
from forge.spec.meaning import REBUILD


class EvalSuiteSpec(Part):
    """The body of an EvalSuite."""

    include: Annotated[list[RepoPath], Field(min_length=1), ContentOf(), REBUILD]
    """Globs of the task YAML and of the data it reads; data_files are named relative to the task's own folder."""
    tasks: Annotated[list[str], Field(min_length=1), REBUILD]
    """lm-eval task names, each defined by a file of ``include``."""
    num_fewshot: Annotated[int, Field(ge=0), REBUILD] = 0
    seed: Annotated[int, Field(ge=0), REBUILD] = 1234
    batch_size: Annotated[int, Field(ge=1), REBUILD] = 16
    bootstrap_iters: Annotated[int, Field(ge=0), REBUILD] = 1000
    """Resamples behind the standard errors that have no closed form."""
