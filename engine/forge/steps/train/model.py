"""A Llama-family decoder. Parameter names are those of Hugging Face's ``LlamaForCausalLM``: export is a plain state dict.

Shapes: B sequences, S tokens, H hidden size, N heads, K key/value heads, D head size, V vocabulary. Rotary embeddings
follow Hugging Face's half-rotation convention (dimension i turns with i + D/2), not the paper's interleaved pairs.
"""

from typing import cast

import torch
from torch import nn
from torch.nn import functional

from forge.spec.model import Architecture
from forge.steps.train.kernels import causal_attention, rms_norm
from forge.steps.train.loss import summed_cross_entropy


class Rotary(nn.Module):
    """Cosines and sines of every position, float32 [positions, D] (Su et al. 2021)."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        head = architecture.hidden_size // architecture.num_attention_heads
        frequencies = 1.0 / (architecture.rope_theta ** (torch.arange(0, head, 2, dtype=torch.int64).float() / head))
        angles = torch.outer(torch.arange(architecture.max_position_embeddings).float(), frequencies)
        both_halves = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", both_halves.cos(), persistent=False)
        self.register_buffer("sin", both_halves.sin(), persistent=False)

    def forward(self, x_bnsd: torch.Tensor) -> torch.Tensor:
        """Turn queries or keys by their positions."""
        length = x_bnsd.shape[-2]
        cos, sin = self.cos[:length].to(x_bnsd.dtype), self.sin[:length].to(x_bnsd.dtype)
        first, second = x_bnsd.chunk(2, dim=-1)
        return x_bnsd * cos + torch.cat((-second, first), dim=-1) * sin


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(architecture.hidden_size))
        self.eps = architecture.rms_norm_eps

    def forward(self, x_bsh: torch.Tensor) -> torch.Tensor:
        """Normalise over H."""
        return rms_norm(x_bsh, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden_size
        self.head = hidden // architecture.num_attention_heads
        key_value = self.head * architecture.num_key_value_heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, key_value, bias=False)
        self.v_proj = nn.Linear(hidden, key_value, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x_bsh: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Mix each position with those before it."""
        query_bnsd, key_bksd, value_bksd = (
            projection(x_bsh).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_bnsd = causal_attention(rotary(query_bnsd), rotary(key_bksd), value_bksd)
        return cast("torch.Tensor", self.o_proj(mixed_bnsd.transpose(1, 2).flatten(-2)))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden, inner = architecture.hidden_size, architecture.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x_bsh: torch.Tensor) -> torch.Tensor:
        """Transform each position by itself."""
        gated = functional.silu(self.gate_proj(x_bsh)) * self.up_proj(x_bsh)
        return cast("torch.Tensor", self.down_proj(gated))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.self_attn = Attention(architecture)
        self.mlp = FeedForward(architecture)
        self.input_layernorm = RMSNorm(architecture)
        self.post_attention_layernorm = RMSNorm(architecture)

    def forward(self, x_bsh: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """One layer; the residual stream stays float32 under autocast."""
        x_bsh = x_bsh + self.self_attn(self.input_layernorm(x_bsh), rotary)
        return cast("torch.Tensor", x_bsh + self.mlp(self.post_attention_layernorm(x_bsh)))


class Decoder(nn.Module):
    """Embedding, layers and the last normalisation."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, architecture.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(architecture) for _ in range(architecture.num_hidden_layers))
        self.norm = RMSNorm(architecture)
        self.rotary = Rotary(architecture)

    def forward(self, tokens_bs: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, S, H]."""
        x_bsh = self.embed_tokens(tokens_bs)
        for layer in self.layers:
            x_bsh = layer(x_bsh, self.rotary)
        return cast("torch.Tensor", self.norm(x_bsh))


class LlamaForCausalLM(nn.Module):
    """The decoder and its output projection, which is the embedding again where embeddings are tied."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.model = Decoder(architecture, vocab_size)
        self.lm_head = None if architecture.tie_word_embeddings else nn.Linear(architecture.hidden_size, vocab_size, bias=False)

    @property
    def output_weight(self) -> torch.Tensor:
        """The output projection [V, H]."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, tokens_bs: torch.Tensor, targets_bs: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, S, V]; or, with targets, the sum of their negative log-likelihoods in nats (float32 scalar).

        Both go through here because a wrapper (data parallel, compiled, sharded) wraps this method.
        """
        hidden_bsh = self.model(tokens_bs)
        if targets_bs is None:
            return functional.linear(hidden_bsh, self.output_weight)
        return summed_cross_entropy(hidden_bsh.flatten(0, 1), self.output_weight, targets_bs.flatten())


def build_model(architecture: Architecture, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A model with its initial weights: a pure function of the arguments, made on the CPU in float32.

    Matrices and embeddings are drawn from N(0, initializer_range) in the order of their names in the state dict, norms
    are ones, as Hugging Face initialises the family.
    """
    model = LlamaForCausalLM(architecture, vocab_size)
    generator = torch.Generator().manual_seed(seed % 2**63)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, architecture.initializer_range, generator=generator)
    return model
