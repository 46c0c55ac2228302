"""The receiver: what rings is verified, written down and queued here. What happens next is in `jobs`."""

__version__ = "0.2.0"
