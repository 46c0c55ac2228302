"""The worker: applies the stored changes to the Visits API."""
