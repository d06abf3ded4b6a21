"""Bytes, by their digest. Blobs first, manifest last: an artifact exists when its manifest does."""
