"""Signatures: who did what, in formats that other people's tools read (in-toto, DSSE, SLSA, OpenSSF model signing)."""
