"""Settings of the optimiser: what no training could begin with is refused where it is written."""

import pytest
from tests.conftest import MODEL
from tests.spec.test_continue_spec import NEXT, faults

SETTINGS = "optimizer: {lr: 5.0e-3}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("lr: 0", "`lr`: Input should be greater than 0"),
        ("lr: .inf", "not a finite number"),
        ("lr: 5.0e-3, betas: [1.5, 0.9]", "`0`: Input should be less than 1"),
        ("lr: 5.0e-3, betas: [0.9, 1.0]", "`1`: Input should be less than 1"),
        ("lr: 5.0e-3, betas: [-0.1, 0.9]", "`0`: Input should be greater than or equal to 0"),
        ("lr: 5.0e-3, betas: [0.9]", "`betas`"),
        ("lr: 5.0e-3, eps: 0.0", "`eps`: Input should be greater than 0"),
        ("lr: 5.0e-3, weight_decay: -0.1", "`weight_decay`: Input should be greater than or equal to 0"),
        ("lr: 5.0e-3, gradient_clip_norm: 0", "`gradient_clip_norm`: Input should be greater than 0"),
    ],
)
def test_a_setting_out_of_its_range_is_named_with_its_place(fields: str, expected: str) -> None:
    assert SETTINGS in MODEL
    found = faults(NEXT, model=MODEL.replace(SETTINGS, f"optimizer: {{{fields}}}"))
    assert any(fault.startswith("models/model.yaml:") and expected in fault for fault in found), found


def test_the_ends_of_a_range_are_part_of_it() -> None:
    ends = "lr: 5.0e-3, betas: [0, 0.0], weight_decay: 0, gradient_clip_norm: null"
    assert faults(NEXT, model=MODEL.replace(SETTINGS, f"optimizer: {{{ends}}}")) == []
