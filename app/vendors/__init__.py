"""Fake APIs of scheduling tools over HTTP, written from the tools' documentation.

No other package shares code with them.
"""
