"""Types and rules of the YAML: what a commit may ask for. Pure; bytes come in, values and diagnostics come out."""
