"""Which files of a Hugging Face folder are read where it is a base, and why a folder is none.

Weights are safetensors in one file: a pickle runs what it says when it is loaded, and is not even looked at. The tokenizer's
files are an input of their own, so that other weights with the same tokenizer tokenize nothing again.
"""

from collections.abc import Collection

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
BASE_FILES = (CONFIG_FILE, WEIGHTS_FILE)
TOKENIZER_CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", TOKENIZER_CONFIG_FILE, "special_tokens_map.json", TEMPLATE_FILE)
_NEEDED = (*BASE_FILES, "tokenizer.json", TOKENIZER_CONFIG_FILE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def why_no_base(files: Collection[str]) -> str | None:
    """Why a folder with these files (paths below it) cannot be continued; None where it can, as far as names tell."""
    if not files:
        return "is no folder of this repository, or holds no file"
    missing = [name for name in _NEEDED if name not in files]
    if not missing:
        return None
    reason = f"lacks {', '.join(missing)}"
    if WEIGHTS_FILE in missing:
        pickles = sorted(name for name in files if name.endswith(_PICKLES))
        shards = sorted(name for name in files if name.endswith((".safetensors", ".safetensors.index.json")))
        if shards:
            reason += f"; it holds {shards[0]}: write the weights as one file"
        elif pickles:
            reason += f"; {pickles[0]} is a pickle, which runs code when it is loaded: write the weights as safetensors"
    return reason
