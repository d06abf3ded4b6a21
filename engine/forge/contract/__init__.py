"""What a step is: the files that go in and come out, step kinds and versions, product names. Pure; no I/O."""
