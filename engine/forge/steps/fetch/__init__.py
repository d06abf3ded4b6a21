"""Bringing in what a recipe reads from outside of its repository: Git commits and files behind URLs.

Invariant: nothing reaches the step that its recipe's digests do not name. A cache saves time and decides nothing: what comes
out of it is hashed again. Messages, events and files name addresses only as the recipe wrote them, which hold no secrets
(``spec.remote``); whatever a library or a program says is told without addresses, for redirects carry secrets of their own.
"""
