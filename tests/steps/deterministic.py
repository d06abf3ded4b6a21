"""What no training may ask of a CUDA device: operators that torch refuses there under deterministic algorithms.

A step trains under them, so one of these would end it at its first pass on a device, and a CPU tells nobody. The list is that
of ``torch.use_deterministic_algorithms`` (2.13); what acts deterministically when it is told to, is not in it.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_REFUSED = {
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "max_unpool2d",
    "max_unpool3d",
    "nll_loss2d_forward",
    "nll_loss2d_backward",
    "put",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}
COUNTED_AS_INTEGERS = frozenset({"histc"})
"""How transformers counts the tokens of each expert: as integers on CUDA, which is deterministic, and as numbers on a CPU."""


class NothingRefused(TorchDispatchMode):
    """Raises where an operator that a CUDA device refuses is called, ``but`` for some; ``seen`` names all that were called."""

    def __init__(self, but: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self._but = but

    def __torch_dispatch__(self, operator: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        name = operator.overloadpacket.__name__.strip("_")
        self.seen.add(name)
        if name not in self._but and (name in _REFUSED or _is_refused_of(name, arguments, named)):
            raise AssertionError(f"{operator} is refused on CUDA under deterministic algorithms")
        return operator(*arguments, **named)


def _is_refused_of(name: str, arguments: Any, named: dict[str, Any]) -> bool:
    """Of operators that are refused for some arguments alone."""
    tensor = next((each for each in arguments if isinstance(each, torch.Tensor)), None)
    kind = named.get("dtype") or (None if tensor is None else tensor.dtype)
    if name in {"cumsum", "histc"}:
        return bool(kind.is_floating_point or kind.is_complex)
    if name == "bincount":
        return len(arguments) > 1 or "weights" in named
    if name == "scatter_reduce":
        return "prod" in arguments
    return name in {"median", "nanmedian"} and len(arguments) > 1
