"""The model that is fine-tuned: transformers' own class with the base's weights, with an adapter beside them or without.

Invariant: it is made of tensors that were checked one by one (``steps.train.start``), never by a loader that follows what a
folder says; and what is exported is a model without adapter, whose tensors have the names that the base's have.
"""

from collections.abc import Mapping
from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from forge.contract.control_tokens import ControlTokens
from forge.errors import StepError
from forge.spec.tuning import Adapter, why_not_tuned
from forge.steps.train.data import TokensMeta
from forge.steps.train.experts import sort_by_expert, through_experts
from forge.steps.train.export import model_config
from forge.steps.train.job import TrainJob
from forge.steps.train.start import initial_model

_HEAD = "lm_head.weight"
_CLASSES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def meta_of(tokenizer: Tokenizer, control: ControlTokens, subject: str) -> TokensMeta:
    """What token files say of their tokenizer, of one that no token file was made with; raises ``StepError``."""
    ids = {token: tokenizer.token_to_id(token) for token in (control.before_text, control.eos)}
    missing = [token for token, number in ids.items() if number is None]
    if missing:
        raise StepError(f"{subject}: the base's tokenizer lacks {', '.join(missing)}, with which answers begin or end")
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return TokensMeta(
        schema_version=1,
        dtype="uint32",
        vocab_size=size,
        eos_token_id=ids[control.eos],
        bos_token_id=ids[control.before_text],
        splits={},
    )


def model_to_train(job: TrainJob, meta: TokensMeta, adapter: Adapter | None) -> PreTrainedModel | PeftModel:
    """The base in float32, with an untrained adapter where one is asked for; drawn by the seed, it changes no output yet.

    Raises ``StepError`` for what a mixture of experts cannot be tuned with.
    """
    experts, rows = job.architecture.experts, job.rows_for(meta.vocab_size)
    config = model_config(job.architecture, meta, "float32", rows)
    reason = None if experts is None else why_not_tuned(None if adapter is None else adapter.lora.targets)
    if experts is not None and reason:
        raise StepError(f"{job.subject}: the base is a mixture of {experts.num_local_experts} experts; {reason}")
    state = initial_model(job, rows).state_dict()
    config_class, model_class = _CLASSES[job.architecture.family]
    model = model_class(config_class(**config))
    missing, left_over = model.load_state_dict(state, strict=False)
    if left_over or set(missing) - ({_HEAD} if job.architecture.tie_word_embeddings else set()):
        raise RuntimeError(f"{job.subject}: transformers' model has other tensors: {missing}, {left_over}")
    model.tie_weights()
    for module in model.modules():
        if isinstance(module, MixtralExperts):
            module.forward = partial(_experts_forward, module)
    if adapter is None:
        return model
    lora = adapter.lora
    torch.manual_seed(job.training.seed % 2**63)
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type, unused-ignore]
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        ),
    )


def _experts_forward(
    experts: MixtralExperts, x_th: torch.Tensor, experts_tk: torch.Tensor, weights_tk: torch.Tensor
) -> torch.Tensor:
    """A mixture's experts by pretraining's code: transformers' own compute in their weights' float32 under autocast too."""
    order_r, ends_e = sort_by_expert(experts_tk, experts.num_experts)
    return through_experts(x_th, weights_tk, order_r, ends_e, experts.gate_up_proj, experts.down_proj)


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, by name: all weights, or the adapter's."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_trained_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of ``trained_tensors``."""
    with torch.no_grad():
        for name, parameter in trained_tensors(model).items():
            parameter.copy_(tensors[name])


def merged_state(model: PreTrainedModel | PeftModel, job: TrainJob) -> dict[str, torch.Tensor]:
    """The finished model's tensors, the adapter merged into them; raises ``StepError`` where one is not finite.

    Of a trial of a search they are what they are: what was measured of them says that they are worth nothing.
    """
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    state = {name: tensor.detach() for name, tensor in whole.state_dict().items()}
    if job.architecture.tie_word_embeddings:
        state.pop(_HEAD, None)
    for name, tensor in state.items():
        if not job.searched and not torch.isfinite(tensor).all():
            raise StepError(f"{job.subject}: after the last step {name} holds numbers that are not finite; lower optimizer.lr")
    return state
