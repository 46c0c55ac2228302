"""`doorbell demo`: the whole system on this machine, with nothing to set up."""
