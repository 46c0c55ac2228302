"""The settings, and how they are read from the environment, once at start."""
