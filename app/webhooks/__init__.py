"""Webhooks as data: delivery, signature, payload, event, source. Pure: no clock, no socket, no Redis."""
