"""What a mixture of recipes may be."""

import pytest
from tests.conftest import MODEL

from forge.spec.extend import why_not_extended
from forge.spec.load import load
from forge.spec.meaning import REBUILD, meaningful


def faults(mixture: str) -> list[str]:
    text = MODEL.replace("  training:\n", f"  mixture: {mixture}\n  training:\n")
    return [str(item) for item in load([("m.yaml", text.encode())]).diagnostics]


def test_fractions_of_other_recipes_are_accepted() -> None:
    assert faults("[{data: DataRecipe/code, fraction: 0.2, max_epochs: 4.0}, {data: DataRecipe/chat, fraction: 0.1}]") == []


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("[{data: DataRecipe/small, fraction: 0.2}]", "names a recipe twice, or the model's own data"),
        ("[{data: DataRecipe/b, fraction: 0.2}, {data: DataRecipe/b, fraction: 0.2}]", "names a recipe twice"),
        ("[{data: DataRecipe/b, fraction: 0.7}, {data: DataRecipe/c, fraction: 0.3}]", "are 1 together: leave some"),
        ("[{data: DataRecipe/b, fraction: 1.0}]", "less than 1"),
        ("[{data: DataRecipe/b, fraction: 0.0001}]", "is not one sequence"),
        ("[{data: DataRecipe/b, fraction: 0.2, max_epochs: 0.0}]", "greater than 0"),
        ("[{data: DataRecipe/b, weight: 0.2}]", "unknown key `weight`"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mixture: str, message: str) -> None:
    found = "\n".join(faults(mixture))
    assert message in found


def test_a_longer_training_of_the_same_mixture_continues_the_shorter_one() -> None:
    def parameters(tokens: str, fraction: str) -> dict[str, object]:
        text = MODEL.replace("40k", tokens)
        text = text.replace("  training:\n", f"  mixture: [{{data: DataRecipe/b, fraction: {fraction}}}]\n  training:\n")
        (located,) = load([("m.yaml", text.encode())]).resources
        return meaningful(located.resource.spec, REBUILD)

    assert why_not_extended(parameters("40k", "0.2"), parameters("80k", "0.2")) is None
    assert "mixture changed" in str(why_not_extended(parameters("40k", "0.2"), parameters("80k", "0.3")))
