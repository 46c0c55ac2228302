"""A fake of Review Rover's Visits API, for first runs, tests and benchmarks."""
