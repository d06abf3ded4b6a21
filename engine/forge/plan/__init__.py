"""Desired and recorded state -> a plan. Pure functions over values: no I/O, no clock, no network."""
