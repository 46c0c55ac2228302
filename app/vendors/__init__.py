"""Fake APIs of scheduling tools over HTTP, built from the documentation. They share no code with the rest of Doorbell."""
