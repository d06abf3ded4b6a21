"""The end of an installation: import what the profile rests on, and refuse a CUDA build of torch on the cpu profile.

Run as ``python locks/check.py PROFILE``. PyPI's plain torch for Linux is the CUDA build; a CPU wheel comes from where pip is
told to look, by its configuration or its environment.
"""

import sys


def main(profile: str) -> int:
    """Return 0 when the profile can be used, else 1 after saying what to do."""
    import forge.admission.verify
    import forge.cli.main
    import forge.reconcile.apply  # noqa: F401 (importing them is the check)

    if profile != "cpu":
        return 0
    try:
        import torch
    except ImportError as error:
        return fail(f"torch cannot be imported: {error}")
    if torch.version.cuda is not None:
        return fail(f"torch {torch.__version__} is a CUDA build, and the cpu profile installs none of CUDA's libraries")
    return 0


def fail(reason: str) -> int:
    """Say what is wrong and which variable mends it."""
    print(
        f"{reason}.\nGive pip a place with a CPU wheel of this torch, and install again: set PIP_FIND_LINKS to a folder or "
        "page that lists one,\nor PIP_EXTRA_INDEX_URL to an index of CPU builds; then remove .venv and run make again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
