"""A Visits and Contacts API of our own, for first runs and tests."""
