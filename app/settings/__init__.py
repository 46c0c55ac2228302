"""Settings: what the environment can say, read once at start."""
