"""How large a model is and how many floating-point operations its training takes. Pure arithmetic over a spec.

The planner estimates time and cost with these functions and the train step reports with them, so that an estimate and
what was done are measured by one rule; tests/plan/test_compute.py compares the count with the real model's.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forge.spec.architecture import Architecture

FLOPS_FORMULA = "6*N + 12*L*H*S per token (PaLM, appendix B)"
"""What to print beside any figure that rests on ``flops_per_token``."""
ACTIVE_FLOPS_FORMULA = f"{FLOPS_FORMULA}; N: the parameters that a token goes through, not those of all experts"
"""The same, of a mixture of experts."""


def num_parameters(architecture: "Architecture", vocab_size: int) -> int:
    """Trainable parameters; a tied embedding counts once, and every expert counts."""
    return _count(architecture, vocab_size, 1 if architecture.experts is None else architecture.experts.num_local_experts)


def num_active_parameters(architecture: "Architecture", vocab_size: int) -> int:
    """Parameters that one token goes through: of the experts those that it is routed to, and the whole router."""
    return _count(architecture, vocab_size, 1 if architecture.experts is None else architecture.experts.num_experts_per_tok)


def flops_per_token(architecture: "Architecture", vocab_size: int, sequence_length: int) -> int:
    """Floating-point operations of training on one token, forward and backward: ``6*N + 12*L*H*S``.

    N is the number of parameters that the token goes through, without the input embedding, which is a look-up; a tied
    embedding stays in, because it multiplies as the output projection. L is the number of layers, H the size of all heads (the
    hidden size, unless ``head_dim`` says otherwise), S the sequence length; attention is counted in full, as if it were not
    causal, nor confined to a document. Source: Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways",
    appendix B.
    """
    attended = architecture.num_attention_heads * architecture.head_size
    multiplied = num_active_parameters(architecture, vocab_size)
    if not architecture.tie_word_embeddings:
        multiplied -= vocab_size * architecture.hidden_size
    return 6 * multiplied + 12 * architecture.num_hidden_layers * attended * sequence_length


def flops_formula(architecture: "Architecture") -> str:
    """What to print beside a figure of this architecture that rests on ``flops_per_token``."""
    return FLOPS_FORMULA if architecture.experts is None else ACTIVE_FLOPS_FORMULA


REFERENCE_FORMULA = "with a forward pass of the reference, a third of that, once per place of a pair"
"""What dpo adds to ``FLOPS_FORMULA``."""


def reference_flops_per_token(architecture: "Architecture", vocab_size: int, sequence_length: int) -> int:
    """Operations of the reference's forward pass over one token: a third of training's, whose backward pass takes two."""
    return flops_per_token(architecture, vocab_size, sequence_length) // 3


def _count(architecture: "Architecture", vocab_size: int, experts: int) -> int:
    """Parameters, with so many feed-forward parts in a layer."""
    hidden, head = architecture.hidden_size, architecture.head_size
    query, key_value = head * architecture.num_attention_heads, head * architecture.num_key_value_heads
    attention = 2 * hidden * query + 2 * hidden * key_value
    attention += query + 2 * key_value if architecture.has_projection_bias else 0
    attention += 2 * head if architecture.normalises_heads else 0
    feed_forward = experts * 3 * hidden * architecture.intermediate_size
    router = 0 if architecture.experts is None else architecture.experts.num_local_experts * hidden
    norms = 2 * hidden
    embeddings = vocab_size * hidden * (1 if architecture.tie_word_embeddings else 2)
    return embeddings + architecture.num_hidden_layers * (attention + feed_forward + router + norms) + hidden
