"""A stand-in for Review Rover's Visits API, for first runs, tests and benchmarks."""
