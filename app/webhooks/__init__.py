"""Webhooks as data: delivery, signature, payload, event, source. Pure, except specimens.py: no clock, no I/O."""
