"""The base that a model continues: a Hugging Face folder, read by rules that name what this trainer cannot reproduce.

Invariant: what is accepted is trained on as the very function that transformers computes of the folder. So a setting of
``config.json`` that this trainer's model does not have is refused, and so is a tensor that is missing, left over or not finite.
The bytes are those that the request names: whoever laid them out has hashed them. Nothing is unpickled.
"""

from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from forge.errors import StepError
from forge.spec.architecture import LARGEST, Architecture, Experts
from forge.spec.base_folder import CONFIG_FILE, INDEX_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, WEIGHTS_FILE
from forge.spec.model import DEFAULT_CHAT_TEMPLATE
from forge.steps.control_tokens import read_control_tokens, read_json

_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0),
    "quantization_config": (None,),
    "auto_map": (None,),
    "is_causal": (True,),
    "partial_rotary_factor": (1.0, None),
}
"""Settings, and the values under which the model is the one that is trained here."""
_FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"attention_bias": (False,), "mlp_bias": (False,)},
    "mistral": {"sliding_window": (None,)},
    "mixtral": {"sliding_window": (None,), "router_jitter_noise": (0, 0.0)},
    "qwen2": {"use_sliding_window": (False,)},
    "qwen3": {"use_sliding_window": (False,), "attention_bias": (False,)},
}
"""The same, of one family."""
_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "num_key_value_heads": None,
    "head_dim": None,
}
_OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001}
"""transformers' own, for what a folder leaves out."""
_FULL_ATTENTION = "full_attention"
_ROPE_TYPES = ("linear", "llama3", "yarn")
_ROPE_BY_LENGTH = {
    "dynamic": "up to max_position_embeddings it is 'default': leave the setting out, if that is where the model is to be used",
    "longrope": "one model below original_max_position_embeddings and another above, and readers differ in which they take",
}
"""Those that turn a position by how long the text is, and what that means for a base that has them."""


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a base; raises ``StepError`` for one that this trainer does not have."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        known = ", ".join(repr(each) for each in _FAMILIES)
        raise StepError(f"{path}: model_type is {family!r}; this trainer continues {known} only")
    missing = [name for name in (*_SHAPE, "vocab_size") if name not in config]
    if missing:
        raise StepError(f"{path}: lacks {', '.join(missing)}")
    given, config = config.keys(), _DEFAULTS | _OWN_DEFAULTS.get(family, {}) | config
    for name, accepted in (_ONLY | _FAMILIES[family]).items():
        if name in config and config[name] not in accepted:
            said = f"is {config[name]!r}" if name in given else f"is left out, which is {config[name]!r}"
            raise StepError(f"{path}: {name} {said}; this trainer's model has {accepted[0]!r} only")
    _check_attention(path, config)
    theta, scaling = _rotary(path, config)
    try:
        return Architecture(
            family=cast("Any", family),
            **{name: config[name] for name in (*_SHAPE, "rms_norm_eps", "initializer_range", "tie_word_embeddings")},
            num_key_value_heads=config[
                "num_attention_heads" if config["num_key_value_heads"] is None else "num_key_value_heads"
            ],
            head_dim=_head_dim(config),
            rope_theta=theta,
            rope_scaling=scaling,
            experts=_experts_of(config) if family == "mixtral" else None,
        )
    except ValidationError as error:
        raise StepError(f"{path}: {_faults(error)}") from error


def rows_of(folder: Path) -> int:
    """Rows of the base's embedding, as it says itself; raises ``StepError`` where that is no number."""
    rows = read_json(folder / CONFIG_FILE).get("vocab_size")
    if type(rows) is not int or not 1 <= rows <= LARGEST:
        raise StepError(f"{folder / CONFIG_FILE}: vocab_size is {rows!r}; expected the number of rows of the embedding")
    return rows


def _faults(error: ValidationError) -> str:
    """Each field with what is wrong and what was found, in one line."""
    found = error.errors(include_url=False)
    told = [f"{'.'.join(map(str, fault['loc'])) or 'it'} is {fault['input']!r:.80}: {fault['msg']}" for fault in found]
    return "; ".join(told)


def chat_template_of(folder: Path, tokenizer: Path) -> str:
    """The base's chat template, beside its weights or with its tokenizer; the one that joins contents where it has none."""
    for place in (folder, tokenizer):
        if (place / TEMPLATE_FILE).is_file():
            return (place / TEMPLATE_FILE).read_text(encoding="utf-8")
        if (place / TOKENIZER_CONFIG_FILE).is_file():
            found = read_json(place / TOKENIZER_CONFIG_FILE).get("chat_template")
            if found is not None and not isinstance(found, str):
                raise StepError(f"{place / TOKENIZER_CONFIG_FILE}: chat_template is no text; set the model's chat_template")
            if found is not None:
                return found
    return DEFAULT_CHAT_TEMPLATE


def weights_of(folder: Path) -> tuple[Path, dict[str, Path] | None]:
    """The file of the base's tensors, or their index and the file of each; raises ``StepError`` for an index that is none."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        return folder / WEIGHTS_FILE, None
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise StepError(f"{index}: weight_map is {places!r:.80}; expected the file of each tensor")
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise StepError(f"{index}: {name} lies in {file!r}; expected a .safetensors file beside it")
    return index, {name: folder / file for name, file in places.items()}


def check_same_tokenizer(folder: Path, tokenizer: Path) -> None:
    """Refuse a tokenizer that is not the one beside the base's weights, where there is one; raises ``StepError``."""
    own = folder / "tokenizer.json"
    if own.is_file() and own.read_bytes() != (tokenizer / "tokenizer.json").read_bytes():
        raise StepError(f"{own}: differs from the tokenizer that the tokens were made with; continue with the base's own")


def check_control_tokens(tokenizer: Path) -> None:
    """Refuse a tokenizer that names code, or whose control tokens nobody could make harmless; raises ``StepError``."""
    config = read_json(tokenizer / TOKENIZER_CONFIG_FILE)
    if config.get("auto_map") is not None:
        raise StepError(f"{tokenizer / TOKENIZER_CONFIG_FILE}: auto_map names code of its own; a tokenizer here is data alone")
    read_control_tokens(tokenizer)


def _check_attention(path: Path, config: dict[str, Any]) -> None:
    """Refuse layers that see a part of what stands before a token; raises ``StepError``."""
    layers, count = config.get("layer_types"), config["num_hidden_layers"]
    if layers is None:
        return
    other = [each for each in layers if each != _FULL_ATTENTION] if isinstance(layers, list) else [layers]
    if other:
        raise StepError(f"{path}: layer_types has {other[0]!r}; this trainer's model has {_FULL_ATTENTION!r} only")
    if len(layers) != count:
        raise StepError(f"{path}: layer_types has {len(layers)} entries, num_hidden_layers is {count!r}")


def _head_dim(config: dict[str, Any]) -> Any:
    """The size of a head where it is not the one that the other numbers give: a shape has one spelling."""
    hidden, heads, found = (config[name] for name in ("hidden_size", "num_attention_heads", "head_dim"))
    sizes_are_numbers = all(type(number) is int for number in (hidden, heads, found))
    return None if sizes_are_numbers and found * heads == hidden else found


def _experts_of(config: dict[str, Any]) -> Experts:
    """Those of a Mixtral. transformers writes and reads ``num_experts`` as another name of their number."""
    count = config.get("num_local_experts", config.get("num_experts", _EXPERTS["num_local_experts"]))
    return Experts(**{**{name: config.get(name, value) for name, value in _EXPERTS.items()}, "num_local_experts": count})


def _rotary(path: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    """The rotary base and how positions are scaled, in the old spelling (``rope_scaling``) or the new (``rope_parameters``)."""
    spelt = next((name for name in ("rope_scaling", "rope_parameters") if config.get(name) not in (None, {})), None)
    found = {} if spelt is None else config[spelt]
    if not isinstance(found, dict):
        raise StepError(f"{path}: {spelt} is {found!r}; expected a mapping")
    settings = {name: value for name, value in found.items() if name not in ("type", "rope_type", "rope_theta")}
    kind = found.get("rope_type", found.get("type", "default"))
    theta = found.get("rope_theta", config["rope_theta"])
    if kind == "default" and not settings:
        return theta, None
    if kind in _ROPE_BY_LENGTH:
        raise StepError(f"{path}: {spelt} has the type {kind!r}, which depends on a text's length: {_ROPE_BY_LENGTH[kind]}")
    if kind not in _ROPE_TYPES:
        known = ", ".join(repr(each) for each in ("default", *_ROPE_TYPES))
        raise StepError(f"{path}: {spelt} is {found!r}; rotary embeddings that this trainer's model has are {known}")
    return theta, {"rope_type": kind, **{name: value for name, value in settings.items() if value is not None}}
