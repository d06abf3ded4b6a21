"""Models build their validators when they are first used; here every one of them is, so that a wrong annotation shows."""

import importlib
import pkgutil

from pydantic import BaseModel

import forge

ROOMS = ("attest", "contract", "ledger", "spec")


def subclasses(base: type) -> list[type]:
    return [found for child in base.__subclasses__() for found in (child, *subclasses(child))]


def test_every_model_can_be_built() -> None:
    for room in ROOMS:
        package = importlib.import_module(f"forge.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"forge.{room}."):
            importlib.import_module(module.name)
    ours = [model for model in subclasses(BaseModel) if model.__module__.startswith(f"{forge.__name__}.")]
    assert len(ours) > 40
    for model in ours:
        model.model_rebuild(raise_errors=True)
        assert model.__pydantic_complete__, model
