"""Importing what is large, in less time: what a small model's fine-tuning and evaluation are mostly made of.

Two things take a third of TRL's import and four tenths of lm-eval's, and neither is needed (docs/finetune.md has figures):
1. The garbage collector, which walks over a million objects again and again while modules are made, and finds nothing. It
   waits until they are there; then they are set aside (``gc.freeze``), so that later collections do not walk over them either.
2. scikit-learn and SciPy, which transformers imports where it finds them, for losses and metrics of models that are none of
   ours. They are out of sight while it looks (a None in ``sys.modules`` is Python's own way to say so), and there afterwards.

Invariant: what is imported is what would have been imported, without those two; no library is changed.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONAL = ("sklearn", "scipy")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import inside of it. What is loaded already stays in sight."""
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
        if collects:
            gc.enable()
            gc.freeze()
