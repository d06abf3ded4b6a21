"""Where a train step keeps its checkpoints, for those that may not import the step.

``scratch/checkpoints/`` holds the newest ones of a run, ``scratch/before-decay/`` the last one from which a longer run
may go on. A checkpoint is a folder that appears whole, by a rename; names that do not fit are half-written or damaged.
In an attempt's output, and in the artifact that is made of it, the files lie directly in ``checkpoint/``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from forge.canonical import Digest, digest_of_json

CHECKPOINTS = "checkpoints"
BEFORE_DECAY = "before-decay"
BYPRODUCT = "checkpoint"
"""The name of a train step's by-product: the checkpoint from which a longer run may go on."""
BRANCH_POINT = re.compile(r"checkpoint-([1-9]\d{0,14})")
"""Names of others: checkpoints of the steps at which branches leave the run."""
CHECKPOINT_GLOB = "*/step-*-attempt-*"
"""Matches, below scratch, the folders that ``newest_checkpoint`` chooses from (and more)."""
_NAME = re.compile(r"step-(\d{8,})-attempt-(\d+)")


def branch_point(step: int) -> str:
    """The name of the by-product that a branch at a step begins with."""
    return f"{BYPRODUCT}-{step}"


def branch_point_of(name: str) -> int | None:
    """The step of such a by-product; None for any other name."""
    match = BRANCH_POINT.fullmatch(name)
    return int(match[1]) if match else None


def name_of_checkpoint(byproducts: Mapping[str, str], digest: str) -> str | None:
    """Which of a run's by-products a checkpoint is, by its digest; None where it is none of them."""
    names = (name for name in sorted(byproducts) if name == BYPRODUCT or BRANCH_POINT.fullmatch(name))
    return next((name for name in names if byproducts[name] == digest), None)


def checkpoint_name(step: int, attempt: int) -> str:
    """The folder's name."""
    return f"step-{step:08d}-attempt-{attempt}"


def position_of(name: str) -> tuple[int, int] | None:
    """(step, attempt) of a checkpoint folder's name; None for any other name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def newest_checkpoint(names: Iterable[str], at_most_step: int | None = None) -> str | None:
    """The furthest checkpoint of a scratch folder, not beyond a step; of equal ones the latest attempt's.

    ``names`` are paths relative to scratch, as globbing for ``CHECKPOINT_GLOB`` gives them. Whoever continues a run under
    another key passes ``spec.extend.shared_steps`` as the bound: what lies beyond was trained at a decaying rate.
    """
    found: list[tuple[int, int, str]] = []
    for name in names:
        folder, _, last = name.partition("/")
        position = position_of(last)
        if folder in (CHECKPOINTS, BEFORE_DECAY) and position and (at_most_step is None or position[0] <= at_most_step):
            found.append((*position, name))
    return max(found)[2] if found else None


def lineage_of(step_version: int, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> Digest:
    """What the runs of one lineage share: everything in a train step's key but ``training.tokens``."""
    training = {name: value for name, value in parameters["training"].items() if name != "tokens"}
    return digest_of_json({"version": step_version, "parameters": {**parameters, "training": training}, "inputs": dict(inputs)})
