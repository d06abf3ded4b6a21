"""May this model serve? The chain of evidence, checked from the bytes up; used by both control loops and by `forge verify`."""
