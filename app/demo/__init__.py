"""`doorbell demo`: everything on this machine, with nothing to set up."""
