"""The work itself. Each step is a function from a request to files; it sees no key, no ledger and no network.

Run as ``python -m forge.steps REQUEST``; the control plane never imports this package.
"""
