"""Which files of a Hugging Face folder are read where it is a base, and why a folder is none.

Weights are safetensors, in one file or in those that an index lists: a pickle runs what it says when it is loaded, and is not
even looked at. The tokenizer's files are an input of their own, so that other weights with the same tokenizer tokenize nothing
again.
"""

import re
from collections.abc import Collection

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Which tensor lies in which file, where the weights are several."""
TOKENIZER_CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", TOKENIZER_CONFIG_FILE, "special_tokens_map.json", TEMPLATE_FILE)
_NEEDED = (CONFIG_FILE, WEIGHTS_FILE, "tokenizer.json", TOKENIZER_CONFIG_FILE)
_SHARD = re.compile(r"model-([0-9]{5})-of-([0-9]{5})\.safetensors")
"""As transformers names the files of large weights."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def shard_name(number: int, count: int) -> str:
    """The name of one of several files of weights; the first is number 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def base_files(files: Collection[str]) -> list[str]:
    """Configuration and weights among the files of a folder that can be continued: one file, or an index and its own."""
    if WEIGHTS_FILE in files:
        return [CONFIG_FILE, WEIGHTS_FILE]
    return [CONFIG_FILE, INDEX_FILE, *_shards(files)]


def why_no_base(files: Collection[str]) -> str | None:
    """Why a folder with these files (paths below it) cannot be continued; None where it can, as far as names tell."""
    if not files:
        return "is no folder of this repository, or holds no file"
    in_shards = WEIGHTS_FILE not in files and INDEX_FILE in files
    needed = [name for name in _NEEDED if name != WEIGHTS_FILE or not in_shards]
    missing = [name for name in needed if name not in files] + (_missing_shards(files) if in_shards else [])
    if not missing:
        return None
    reason = f"lacks {', '.join(missing)}"
    if WEIGHTS_FILE in missing:
        pickles = sorted(name for name in files if name.endswith(_PICKLES))
        shards = sorted(name for name in files if name.endswith(".safetensors"))
        if shards:
            reason += f"; it holds {shards[0]}, but no {INDEX_FILE}, which says what lies in which file"
        elif pickles:
            reason += f"; {pickles[0]} is a pickle, which runs code when it is loaded: write the weights as safetensors"
    return reason


def _shards(files: Collection[str]) -> list[str]:
    """The files of weights in several, of the set that is the largest where two lie beside each other."""
    found = [match for match in map(_SHARD.fullmatch, sorted(files)) if match]
    count = max((match[2] for match in found), default="")
    return [match[0] for match in found if match[2] == count]


def _missing_shards(files: Collection[str]) -> list[str]:
    found = _shards(files)
    match = _SHARD.fullmatch(found[0]) if found else None
    count = int(match[2]) if match else 1
    return [name for name in (shard_name(number, count) for number in range(1, count + 1)) if name not in found][:5]
