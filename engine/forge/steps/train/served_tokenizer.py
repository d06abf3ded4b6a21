"""Is what evaluates and serves a model given the tokenizer that it is trained with?

Training reads ``tokenizer.json``. transformers, and vLLM through it, make some tokenizers by code of their own instead, for
which the file gives vocabulary and merges alone: by the class that ``tokenizer_config.json`` names, and for a qwen2 whatever it
names. So those are made here as they will be, and held against the file: on texts that tell such tokenizers apart, and by size.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from forge.errors import StepError
from forge.spec.base_folder import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILES
from forge.steps.control_tokens import read_json
from forge.steps.imports import quick_imports
from forge.steps.train.data import TokensMeta
from forge.steps.train.export import model_config
from forge.steps.train.job import TrainJob

_AS_THE_FILE_SAYS = ("PreTrainedTokenizerFast", "TokenizersBackend")
_BY_FAMILY = ("qwen2",)
_PROBES = (
    "The package was built in 2024, and 1234567 words don't count; THEY'RE 99.95 each.",
    "  leading, trailing  \n\n\tand   inner spaces \r\n",
    "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u0130stanbul \u01c5 \ufb01ne \u2460 \u00bd x\u00b2",
    "def f(x):\n    return {'a': [x**2, -3e-5]}  # ok\n",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 12\u6708 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "mixedCase HTTPServer snake_case kebab-case e-mail@example.org/path?q=1&r=2",
    "emoji \U0001f600\U0001f469\u200d\U0001f4bb and \u00ad\u200b\ufeff signs \u2014 \u201cquoted\u201d\u2026",
)


def check_served_tokenizer(tokenizer: Path, meta: TokensMeta, job: TrainJob) -> None:
    """Raise ``StepError`` for files that are read as another tokenizer where the model is evaluated and served."""
    named = read_json(tokenizer / TOKENIZER_CONFIG_FILE).get("tokenizer_class")
    if named in _AS_THE_FILE_SAYS and job.architecture.family not in _BY_FAMILY:
        return
    with quick_imports():  # seconds, which only such a tokenizer takes
        from transformers import AutoTokenizer

    rows = job.rows_for(meta.vocab_size)
    with TemporaryDirectory() as place:
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, place)
        Path(place, CONFIG_FILE).write_text(json.dumps(model_config(job.architecture, meta, "float32", rows)))
        try:
            theirs = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever class the files name; its errors are of every kind
            raise StepError(f"{tokenizer}: transformers cannot load it: {type(error).__name__}: {error}") from error
    ours = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    kind = type(theirs).__name__
    for text in _PROBES:
        found, expected = (
            theirs.encode(text, add_special_tokens=False),
            ours.encode(text, add_special_tokens=False).ids,
        )
        if found != expected:
            remedy = (
                f"a {job.architecture.family} needs a tokenizer of that kind"
                if job.architecture.family in _BY_FAMILY
                else f"tokenizer_class is {named!r}: write PreTrainedTokenizerFast there, or take a tokenizer of that class"
            )
            raise StepError(
                f"{tokenizer / 'tokenizer.json'}: transformers and vLLM read it as a {kind}, which splits text otherwise: what "
                f"is trained would be measured and served with other tokens; {remedy}"
            )
    if len(theirs) > rows:
        more = sorted(theirs.get_added_vocab().keys() - ours.get_vocab().keys())
        raise StepError(
            f"{tokenizer / TOKENIZER_CONFIG_FILE}: as a {kind} it has {len(theirs)} tokens ({', '.join(more)} beside those of "
            f"tokenizer.json), and the embedding has {rows} rows: name one that is there, as pad_token"
        )
