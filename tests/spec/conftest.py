"""Values to test with."""

import pytest
from tests.conftest import MODEL

from forge.spec.load import load
from forge.spec.model import ModelSpec


@pytest.fixture
def small_model() -> ModelSpec:
    """The small example's model."""
    (located,) = load([("m.yaml", MODEL.encode())]).resources
    assert isinstance(located.resource.spec, ModelSpec)
    return located.resource.spec
