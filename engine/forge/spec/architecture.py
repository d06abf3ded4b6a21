"""The shape of a model: a Llama or one of its relatives, or a mixture of experts (Mixtral), by Hugging Face's names."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from forge.spec.fields import Part
from forge.spec.meaning import REBUILD
from forge.spec.rope import RopeScaling

LARGEST, _MOST = 2**24, 2**16
"""Of a size, and of what is counted: far beyond any model, and where a slip of a zero is still told by its field."""
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Experts(Part):
    """A router and several feed-forward parts in every layer, of which each token goes through a few (Jiang et al. 2024).

    Hugging Face's names (transformers ``MixtralConfig``). No token is dropped: an expert takes as many as choose it.
    """

    num_local_experts: Annotated[int, Field(ge=2, le=1024), REBUILD]
    """Feed-forward parts of a layer, each of ``intermediate_size``."""
    num_experts_per_tok: Annotated[int, Field(ge=2), REBUILD]
    """Those that a token goes through, weighted by the router's softmax over them. With one, that weight is always 1: the
    router would learn nothing from what it chose."""
    router_aux_loss_coef: Annotated[float, Field(ge=0, allow_inf_nan=False), REBUILD] = 0.01
    """Weight of the load-balancing loss (Fedus et al. 2021); 0: nothing keeps the router from using few experts alone."""

    @model_validator(mode="after")
    def _chooses_among_them(self) -> Self:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, but a layer has {self.num_local_experts} experts "
                "(num_local_experts): a token goes through each at most once"
            )
        return self


class Architecture(Part):
    """A decoder of the Llama family; Hugging Face's names (transformers ``LlamaConfig`` and those of its relatives)."""

    family: Annotated[Literal["llama", "mistral", "mixtral", "qwen2", "qwen3"], REBUILD]
    """As ``model_type`` of a ``config.json``. mistral computes as llama does; mixtral has experts in the place of each layer's
    feed-forward part; qwen2 adds a bias to queries, keys and values; qwen3 normalises queries and keys, head by head."""
    hidden_size: Annotated[int, Field(ge=8, le=LARGEST), REBUILD]
    num_hidden_layers: Annotated[int, Field(ge=1, le=_MOST), REBUILD]
    num_attention_heads: Annotated[int, Field(ge=1, le=_MOST), REBUILD]
    num_key_value_heads: Annotated[int, Field(ge=1, le=_MOST), REBUILD]
    intermediate_size: Annotated[int, Field(ge=8, le=LARGEST), REBUILD]
    max_position_embeddings: Annotated[int, Field(ge=8, le=LARGEST), REBUILD]
    rope_theta: Annotated[_Positive, REBUILD] = 10000.0
    rms_norm_eps: Annotated[_Positive, REBUILD] = 1e-5
    initializer_range: Annotated[_Positive, REBUILD] = 0.02
    tie_word_embeddings: Annotated[bool, REBUILD] = False
    experts: Annotated[Experts | None, REBUILD] = None
    """Of the mixtral family; None: one feed-forward part, which every token goes through."""
    rope_scaling: Annotated[RopeScaling | None, REBUILD] = None
    """None: positions are turned by ``rope_theta`` alone."""
    head_dim: Annotated[int | None, Field(ge=2, le=_MOST), REBUILD] = None
    """Size of an attention head; None: ``hidden_size`` / ``num_attention_heads``."""

    @property
    def head_size(self) -> int:
        """Size of an attention head, whoever said it."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def has_projection_bias(self) -> bool:
        """Whether the projections to queries, keys and values add a bias (Qwen2; Yang et al. 2024)."""
        return self.family == "qwen2"

    @property
    def normalises_heads(self) -> bool:
        """Whether each query and key is normalised before it is turned (Qwen3; Yang et al. 2025)."""
        return self.family == "qwen3"

    @model_validator(mode="after")
    def _has_experts(self) -> Self:
        if self.family != "mixtral" and self.experts is not None:
            raise ValueError(f"a {self.family} has no experts: set family to mixtral, or leave experts out")
        if self.family == "mixtral" and self.experts is None:
            raise ValueError("a mixtral needs experts: {num_local_experts, num_experts_per_tok}; without any it is a llama")
        if self.experts is not None and (self.hidden_size % 8 or self.intermediate_size % 8):
            raise ValueError("with experts, hidden_size and intermediate_size must be multiples of 8: grouped products need it")
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads, unless head_dim says how large a head is")
        if self.head_size % 2:
            said = "hidden_size / num_attention_heads" if self.head_dim is None else "head_dim"
            raise ValueError(f"{said} must be even: rotary embeddings turn pairs")
        if self.family == "qwen2" and self.head_dim not in (None, self.hidden_size / self.num_attention_heads):
            raise ValueError("a qwen2 has heads of hidden_size / num_attention_heads, and head_dim says another size")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self
