"""The shape of a model: a Llama, or a mixture of experts (Mixtral), by Hugging Face's names."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from forge.spec.fields import Part
from forge.spec.meaning import REBUILD
from forge.spec.rope import RopeScaling


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
    """A decoder of the Llama family; Hugging Face's names (transformers ``LlamaConfig`` and ``MixtralConfig``)."""

    family: Annotated[Literal["llama", "mixtral"], REBUILD]
    """mixtral: llama with experts in the place of each layer's feed-forward part."""
    hidden_size: Annotated[int, Field(ge=8), REBUILD]
    num_hidden_layers: Annotated[int, Field(ge=1), REBUILD]
    num_attention_heads: Annotated[int, Field(ge=1), REBUILD]
    num_key_value_heads: Annotated[int, Field(ge=1), REBUILD]
    intermediate_size: Annotated[int, Field(ge=8), REBUILD]
    max_position_embeddings: Annotated[int, Field(ge=8), REBUILD]
    rope_theta: Annotated[float, Field(gt=0), REBUILD] = 10000.0
    rms_norm_eps: Annotated[float, Field(gt=0), REBUILD] = 1e-5
    initializer_range: Annotated[float, Field(gt=0), REBUILD] = 0.02
    tie_word_embeddings: Annotated[bool, REBUILD] = False
    experts: Annotated[Experts | None, REBUILD] = None
    """Of the mixtral family; None: one feed-forward part, which every token goes through."""
    rope_scaling: Annotated[RopeScaling | None, REBUILD] = None
    """None: positions are turned by ``rope_theta`` alone."""

    @model_validator(mode="after")
    def _has_experts(self) -> Self:
        if self.family == "llama" and self.experts is not None:
            raise ValueError("a llama has no experts: set family to mixtral, or leave experts out")
        if self.family == "mixtral" and self.experts is None:
            raise ValueError("a mixtral needs experts: {num_local_experts, num_experts_per_tok}; without any it is a llama")
        if self.experts is not None and (self.hidden_size % 8 or self.intermediate_size % 8):
            raise ValueError("with experts, hidden_size and intermediate_size must be multiples of 8: grouped products need it")
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("hidden_size / num_attention_heads must be even: rotary embeddings turn pairs")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self
