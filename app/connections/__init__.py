"""Hooks that are stored, and what Doorbell does at the tools: subscribe, check, list, renew tokens."""
