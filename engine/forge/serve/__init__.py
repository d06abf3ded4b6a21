"""Serving: a verified release becomes a vLLM engine behind the policy gateway (docs/design.md, decision 8)."""
