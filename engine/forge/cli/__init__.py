"""The command line: parse, call, render. Verbs, flags and exit codes are an interface (docs/design.md, "Command line")."""
