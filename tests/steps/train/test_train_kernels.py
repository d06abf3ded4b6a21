"""The CPU's attention and normalisation against torch's own, forward and backward."""

import ctypes
import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from forge.steps.train import kernels
from forge.steps.train.allocator import keep_freed_memory
from forge.steps.train.kernels import causal_attention, rms_norm
from forge.steps.train.model import places_of

LENGTHS = (1, 5, 127, 128, 129, 300)


def _torch_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def _heads(length: int, kv_heads: int, groups: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values as projections give them: a transposed view, not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, length, heads, 8, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for heads in (kv_heads * groups, kv_heads, kv_heads)
    ]


@given(st.sampled_from(LENGTHS), st.integers(1, 2), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_attention_and_its_gradients_are_those_of_torch(length: int, kv_heads: int, groups: int) -> None:
    inputs = _heads(length, kv_heads, groups, torch.float32)
    found, expected = causal_attention(*inputs), _torch_attention(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@given(st.sampled_from((5, 64, 130)), st.integers(1, 2), st.integers(1, 3), st.sampled_from((1, 3)))
@settings(max_examples=15, deadline=None)
def test_documents_apart_are_the_same_by_the_kernel_that_devices_use(
    length: int, kv_heads: int, groups: int, documents: int
) -> None:
    """Off the CPU, and for long sequences on it, torch's own kernel is given the mask, and no fewer keys than queries."""
    inputs = _heads(length, kv_heads, groups, torch.float32)
    numbers = torch.arange(length).mul(documents).div(length, rounding_mode="floor").expand(2, -1)
    visible = places_of(numbers).visible_b1ss
    expected, given_to_torch = causal_attention(*inputs, visible), []
    real = functional.scaled_dot_product_attention

    def torchs(*tensors: torch.Tensor, **named: object) -> torch.Tensor:
        given_to_torch.append(([tensor.shape[1] for tensor in tensors], named))
        return real(*tensors, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_LONGEST", 0)
        patch.setattr(kernels.functional, "scaled_dot_product_attention", torchs)
        found = causal_attention(*inputs, visible)
    ((heads, named),) = given_to_torch
    assert heads == [kv_heads * groups] * 3
    assert not named.get("enable_gqa")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_device_is_asked_for_what_a_fused_kernel_of_it_takes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Of CUDA's, the one for float32 takes no fewer keys than queries; the one for bfloat16 does."""
    given_to_torch: list[tuple[list[int], dict[str, object]]] = []

    def torchs(*tensors: torch.Tensor, **named: object) -> torch.Tensor:
        given_to_torch.append(([tensor.shape[1] for tensor in tensors], named))
        return tensors[0]

    def repeated(tensor: torch.Tensor, groups: int) -> torch.Tensor:
        return torch.empty(2, groups * tensor.shape[1], 64, 16, dtype=tensor.dtype, device=tensor.device)

    monkeypatch.setattr(kernels.functional, "scaled_dot_product_attention", torchs)
    monkeypatch.setattr(kernels, "_repeated", repeated)  # a device that is not there has no views
    with FakeTensorMode():
        causal_attention(*(torch.empty(2, heads, 64, 16, dtype=dtype, device="cuda") for heads in (4, 2, 2)))
    ((heads, named),) = given_to_torch
    grouped = dtype == torch.bfloat16
    assert heads == ([4, 2, 2] if grouped else [4, 4, 4])
    assert (named.get("is_causal"), named.get("attn_mask"), bool(named.get("enable_gqa"))) == (True, None, grouped)


def test_no_position_sees_a_later_one() -> None:
    query, key, value = _heads(300, 2, 2, torch.bfloat16)
    before = causal_attention(query, key, value)
    changed = [tensor.detach().clone() for tensor in (key, value)]
    for tensor in changed:
        tensor[:, :, 200:] = 1e30
    after = causal_attention(query, *changed)
    assert torch.equal(before[:, :, :200], after[:, :, :200])
    assert not torch.equal(before[:, :, 200:], after[:, :, 200:])


def test_in_bfloat16_its_error_is_of_the_size_of_torchs_own() -> None:
    exact_inputs = [tensor.detach().requires_grad_() for tensor in _heads(256, 2, 2, torch.float32)]
    exact = _torch_attention(*exact_inputs)
    exact_grads = torch.autograd.grad(exact.square().sum(), exact_inputs)
    errors = {}
    for name, attention in (("ours", causal_attention), ("torch", _torch_attention)):
        inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in exact_inputs]
        grads = torch.autograd.grad(attention(*inputs).float().square().sum(), inputs)
        errors[name] = max(((g - e).norm() / e.norm()).item() for g, e in zip(grads, exact_grads, strict=True))
    assert errors["ours"] < 0.02
    assert errors["ours"] < 2.5 * errors["torch"]


def test_under_autocast_attention_computes_in_autocasts_type() -> None:
    inputs = _heads(16, 1, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = causal_attention(*inputs)
    assert mixed.dtype == torch.bfloat16
    assert [grad.dtype for grad in torch.autograd.grad(mixed.float().sum(), inputs)] == [torch.float32] * 3


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_normalisation_and_its_gradients_are_those_of_torch(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 24, generator=generator).mul_(3).requires_grad_()
    weight = torch.randn(24, generator=generator, requires_grad=True)
    found, expected = rms_norm(x, weight, 1e-5), functional.rms_norm(x, (24,), weight, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    grad = torch.randn(rows, 24, generator=generator)
    for mine, theirs in zip(
        torch.autograd.grad(found, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_is_normalised_to_zeros() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    found = rms_norm(x, torch.ones(8), 1e-5)
    assert found.abs().sum() == 0
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_that_is_freed_is_not_asked_for_again() -> None:
    assert keep_freed_memory()
    torch.empty(1 << 20).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(1 << 20).fill_(1)  # 4 MiB: 1024 pages, and 20,000 faults where each is mapped anew
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2000
