"""What a webhook is: delivery, signature, payload, event, source. Pure: no clock, no socket, no Redis."""
