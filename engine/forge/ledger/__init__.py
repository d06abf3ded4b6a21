"""History on a Git ref: append-only, hash-chained, moved by compare-and-swap."""
