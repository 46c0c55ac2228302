"""The worker: from written facts to the visit that stands in the Visits API."""
