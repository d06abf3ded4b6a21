"""Rotary position embeddings (Su et al. 2021), scaled or not.

They follow Hugging Face's half-rotation convention (dimension i turns with i + D/2), not the paper's interleaved pairs. The
frequencies of scaled ones are worked out by transformers itself: that is the function which a served model is computed with.

Shapes: B sequences, S tokens, N heads, D head size.
"""

from typing import Any

import torch
from torch import nn

from forge.spec.architecture import Architecture
from forge.steps.imports import quick_imports


class Rotary(nn.Module):
    """Cosines and sines of every position, float32 [positions, D]."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._architecture = architecture
        for name, table in self._tables().items():
            self.register_buffer(name, table, persistent=False)

    def fill(self) -> None:
        """Write the tables, wherever they are by now: a model that was made without memory is given some later."""
        for name, table in self._tables().items():
            self.get_buffer(name).copy_(table)

    def forward(self, x_bnsd: torch.Tensor, positions_bs: torch.Tensor | None = None) -> torch.Tensor:
        """Turn queries or keys by their positions; None: one after another."""
        length = x_bnsd.shape[-2]
        if positions_bs is None:
            cos, sin = self.cos[:length].to(x_bnsd.dtype), self.sin[:length].to(x_bnsd.dtype)
        else:
            cos, sin = (table[positions_bs][:, None].to(x_bnsd.dtype) for table in (self.cos, self.sin))
        first, second = x_bnsd.chunk(2, dim=-1)
        return x_bnsd * cos + torch.cat((-second, first), dim=-1) * sin

    def _tables(self) -> dict[str, torch.Tensor]:
        with torch.device("cpu"):  # whatever device the rest of the model is made on
            frequencies, factor = _frequencies(self._architecture)
            angles = torch.outer(torch.arange(self._architecture.max_position_embeddings).float(), frequencies)
            both_halves = torch.cat((angles, angles), dim=-1)
            return {"cos": both_halves.cos() * factor, "sin": both_halves.sin() * factor}


def scaling_of(architecture: Architecture) -> dict[str, Any]:
    """How positions are scaled, by the names of a config.json; empty where they are not."""
    scaling = architecture.rope_scaling
    return {} if scaling is None else scaling.model_dump(exclude_defaults=True)


def _frequencies(architecture: Architecture) -> tuple[torch.Tensor, float]:
    """Radians of each pair of dimensions for one place [D / 2], and what cosines and sines are multiplied by."""
    head = architecture.head_size
    if architecture.rope_scaling is None:
        return 1.0 / (architecture.rope_theta ** (torch.arange(0, head, 2, dtype=torch.int64).float() / head)), 1.0
    with quick_imports():  # seconds, which only a scaled model takes
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_attention_heads,
        head_dim=head,
        max_position_embeddings=architecture.max_position_embeddings,
        rope_parameters={"rope_theta": architecture.rope_theta, **scaling_of(architecture)},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[architecture.rope_scaling.rope_type](config, torch.device("cpu"))
    return frequencies, float(factor)
