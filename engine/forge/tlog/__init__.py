"""The transparency log: an append-only Merkle log in the C2SP tlog-tiles layout, its proofs, and its witness."""
