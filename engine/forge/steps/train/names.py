"""What files call the tensors of a model: what transformers saves and loads, and vLLM loads.

A model of the llama family is named alike in memory and in files. In memory the experts of a layer are one tensor; in files
each expert has three matrices of its own, under the names of the first Mixtral: w1 (gate), w3 (up) and w2 (down). This is a
renaming and a cutting apart, no arithmetic: there and back gives the same bits.
"""

import re
from collections.abc import Mapping

import torch

_LAYER = r"(model\.layers\.[0-9]+)\."
_GATE_UP, _DOWN, _ROUTER = (
    re.compile(_LAYER + rest) for rest in (r"mlp\.experts\.gate_up_proj", r"mlp\.experts\.down_proj", r"mlp\.gate\.weight")
)
_FILE_ROUTER = re.compile(_LAYER + r"block_sparse_moe\.gate\.weight")
_FILE_EXPERT = re.compile(_LAYER + r"block_sparse_moe\.experts\.(0|[1-9][0-9]{0,5})\.(w[123])\.weight")


def to_files(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as files have them."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if match := _GATE_UP.fullmatch(name):
            for number, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                prefix = f"{match[1]}.block_sparse_moe.experts.{number}"
                found |= {f"{prefix}.w1.weight": gate, f"{prefix}.w3.weight": up}
        elif match := _DOWN.fullmatch(name):
            found |= {f"{match[1]}.block_sparse_moe.experts.{number}.w2.weight": expert for number, expert in enumerate(tensor)}
        elif match := _ROUTER.fullmatch(name):
            found[f"{match[1]}.block_sparse_moe.gate.weight"] = tensor
        else:
            found[name] = tensor
    return found


def from_files(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse, of some of a model's tensors or all; of a layer's experts all have the same of their three matrices."""
    found: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _FILE_EXPERT.fullmatch(name):
            experts.setdefault(match[1], {})[int(match[2]), match[3]] = tensor
        elif match := _FILE_ROUTER.fullmatch(name):
            found[f"{match[1]}.mlp.gate.weight"] = tensor
        else:
            found[name] = tensor
    for layer, parts in experts.items():
        numbers = sorted({number for number, _ in parts})
        if (0, "w1") in parts:
            gate_up = [torch.cat((parts[number, "w1"], parts[number, "w3"])) for number in numbers]
            found[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        if (0, "w2") in parts:
            found[f"{layer}.mlp.experts.down_proj"] = torch.stack([parts[number, "w2"] for number in numbers])
    return found
