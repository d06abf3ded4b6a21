"""Values to test with."""

import pytest
from tests.conftest import MODEL

from forge.spec.load import load
from forge.spec.model import PretrainSpec


@pytest.fixture
def small_model() -> PretrainSpec:
    """The small example's model."""
    (located,) = load([("m.yaml", MODEL.encode())]).resources
    assert isinstance(located.resource.spec, PretrainSpec)
    return located.resource.spec
