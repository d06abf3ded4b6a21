"""A decoder of the Llama family, with experts or without.

Parameter names are those of Hugging Face's ``LlamaForCausalLM`` and of its relatives' classes, so that the export is a plain
state dict; with experts they are those of its ``MixtralForCausalLM`` in memory, and what files call an expert's matrices is
``names``'s to say.

Shapes: B sequences, S tokens, H hidden size, N heads, K key/value heads, D head size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from forge.spec.architecture import Architecture
from forge.steps.train.experts import MixtureOfExperts, Routing
from forge.steps.train.kernels import causal_attention, rms_norm
from forge.steps.train.loss import summed_cross_entropy
from forge.steps.train.rotary import Rotary


class Places(NamedTuple):
    """Where tokens stand whose sequences hold several documents."""

    positions_bs: torch.Tensor
    """Counted from the beginning of each document."""
    visible_b1ss: torch.Tensor
    """Whether the first place may attend to the second: not after it, and of the same document."""


def places_of(documents_bs: torch.Tensor) -> Places:
    """The places of tokens whose documents are numbered in the order in which they stand."""
    index_s = torch.arange(documents_bs.shape[1], device=documents_bs.device)
    begins_bs = functional.pad(documents_bs[:, 1:] != documents_bs[:, :-1], (1, 0), value=True)
    first_bs = torch.where(begins_bs, index_s, 0).cummax(dim=1).values
    same_bss = documents_bs[:, :, None] == documents_bs[:, None, :]
    return Places(index_s - first_bs, (same_bss & (index_s[:, None] >= index_s))[:, None])


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_bsh: torch.Tensor) -> torch.Tensor:
        """Normalise over H."""
        return rms_norm(x_bsh, self.weight, self.eps)


class HeadNorm(RMSNorm):
    """The same of each head by itself, all with one weight [D]; the input is [B, S, N, D]."""

    whole_gradient: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Set where processes share the heads: gives the weight back, and to its gradient the sum over the heads of all of them."""

    def forward(self, x_bsnd: torch.Tensor) -> torch.Tensor:
        """Normalise over D."""
        weight_d = self.weight if self.whole_gradient is None else self.whole_gradient(self.weight)
        return rms_norm(x_bsnd, weight_d, self.eps)


class Attention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        hidden, bias = architecture.hidden_size, architecture.has_projection_bias
        self.head = architecture.head_size
        query, key_value = self.head * architecture.num_attention_heads, self.head * architecture.num_key_value_heads
        self.q_proj = nn.Linear(hidden, query, bias=bias)
        self.k_proj = nn.Linear(hidden, key_value, bias=bias)
        self.v_proj = nn.Linear(hidden, key_value, bias=bias)
        self.o_proj = nn.Linear(query, hidden, bias=False)
        normalises = architecture.normalises_heads
        self.q_norm, self.k_norm = (HeadNorm(self.head, architecture.rms_norm_eps) if normalises else None for _ in range(2))

    def forward(self, x_bsh: torch.Tensor, rotary: Rotary, places: Places | None = None) -> torch.Tensor:
        """Mix each position with those before it, of its document where ``places`` tells them apart."""
        query_bsnd, key_bskd, value_bskd = (
            projection(x_bsh).unflatten(-1, (-1, self.head)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query_bsnd, key_bskd = self.q_norm(query_bsnd), self.k_norm(key_bskd)
        query_bnsd, key_bksd, value_bksd = (each.transpose(1, 2) for each in (query_bsnd, key_bskd, value_bskd))
        positions, visible = (None, None) if places is None else places
        mixed_bnsd = causal_attention(rotary(query_bnsd, positions), rotary(key_bksd, positions), value_bksd, visible)
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


_Passed = tuple[torch.Tensor, Routing | None]
"""What a layer gives: the residual stream, and the routing where it has experts."""


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each on a normalised copy of the residual stream."""

    mlp: FeedForward | MixtureOfExperts
    is_recomputed: bool = False
    """Whether only the layer's input is kept for the way back. It is asked in ``forward``, where torch.compile finds it: a
    ``forward`` that is ``checkpoint`` itself would not be compiled at all, for torch's compiler passes over that function."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.self_attn = Attention(architecture)
        self.mlp = (
            FeedForward(architecture)
            if architecture.experts is None
            else MixtureOfExperts(architecture.hidden_size, architecture.intermediate_size, architecture.experts)
        )
        self.input_layernorm = RMSNorm(architecture.hidden_size, architecture.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(architecture.hidden_size, architecture.rms_norm_eps)

    def forward(self, x_bsh: torch.Tensor, rotary: Rotary, places: Places | None = None) -> _Passed:
        """One layer; the residual stream stays float32 under autocast. The routing is of a layer with experts."""
        if self.is_recomputed:
            return cast("_Passed", checkpoint(self._passed, x_bsh, rotary, places, use_reentrant=False))
        return self._passed(x_bsh, rotary, places)

    def _passed(self, x_bsh: torch.Tensor, rotary: Rotary, places: Places | None) -> _Passed:
        x_bsh = x_bsh + self.self_attn(self.input_layernorm(x_bsh), rotary, places)
        transformed = self.mlp(self.post_attention_layernorm(x_bsh))
        added_bsh, routing = transformed if isinstance(transformed, tuple) else (transformed, None)
        return x_bsh + added_bsh, routing


class Decoder(nn.Module):
    """Embedding, layers and the last normalisation."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, architecture.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(architecture) for _ in range(architecture.num_hidden_layers))
        self.norm = RMSNorm(architecture.hidden_size, architecture.rms_norm_eps)
        self.rotary = Rotary(architecture)

    def forward(self, tokens_bs: torch.Tensor, places: Places | None = None) -> tuple[torch.Tensor, Routing | None]:
        """Hidden states [B, S, H], and where the model has experts the routing of all layers."""
        x_bsh = self.embed_tokens(tokens_bs)
        routings: list[Routing] = []
        for layer in self.layers:
            x_bsh, routing = layer(x_bsh, self.rotary, places)
            if routing is not None:
                routings.append(routing)
        return self.norm(x_bsh), Routing(*map(torch.stack, zip(*routings, strict=True))) if routings else None


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

    def forward(
        self,
        tokens_bs: torch.Tensor,
        targets_bs: torch.Tensor | None = None,
        documents_bs: torch.Tensor | None = None,
        *,
        only_routing: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, Routing]:
        """Logits [B, S, V]; or, with targets, the sum of their negative log-likelihoods in nats (float32 scalar).

        ``documents_bs`` numbers the documents of each sequence, which do not see each other then; None: each is one text.
        Of a mixture of experts the routing comes with that sum, which is 0 where only the routing is asked for. All goes
        through here because a wrapper (data parallel, compiled, sharded) wraps this method.
        """
        hidden_bsh, routing = self.model(tokens_bs, None if documents_bs is None else places_of(documents_bs))
        if only_routing and routing is not None:
            return hidden_bsh.new_zeros((), dtype=torch.float32), routing
        if targets_bs is None:
            return functional.linear(hidden_bsh, self.output_weight)
        loss = summed_cross_entropy(hidden_bsh.flatten(0, 1), self.output_weight, targets_bs.flatten())
        return loss if routing is None else (loss, routing)


def outline(architecture: Architecture, vocab_size: int) -> LlamaForCausalLM:
    """A model without memory for its weights (on the meta device), to be cut over processes before it is given any."""
    with torch.device("meta"):
        return LlamaForCausalLM(architecture, vocab_size)


def give_memory(model: LlamaForCausalLM, device: torch.device) -> None:
    """Memory for an outline's weights, or this process's slices of them, which hold nothing yet; tables are filled."""
    model.to_empty(device=device)
    model.model.rotary.fill()


def drawn_tensors(
    architecture: Architecture, shapes: Mapping[str, torch.Size], seed: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The initial weights one after another, float32 on the CPU: a pure function of the arguments.

    Matrices (those of experts among them) and embeddings are drawn from N(0, initializer_range) in the order of ``shapes``,
    norms are ones, biases 0, as Hugging Face initialises the family.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, shape in shapes.items():
        tensor = torch.empty(shape, dtype=torch.float32)
        if len(shape) >= 2:
            yield name, tensor.normal_(0.0, architecture.initializer_range, generator=generator)
        else:
            yield name, tensor.fill_(0.0 if name.endswith(".bias") else 1.0)


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes of all parameters, whole ones, in their order."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def build_model(architecture: Architecture, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A whole model with its initial weights, in float32 on the CPU."""
    model = outline(architecture, vocab_size)
    give_memory(model, torch.device("cpu"))
    with torch.no_grad():
        for name, tensor in drawn_tensors(architecture, shapes_of(model), seed):
            model.get_parameter(name).copy_(tensor)
    return model
