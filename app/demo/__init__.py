"""`doorbell demo`: the whole system on this machine, without any setup."""
