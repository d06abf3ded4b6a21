"""Forge turns a Git repository into a private model factory. The words used here are defined in docs/design.md."""

__version__ = "0.1.0"
