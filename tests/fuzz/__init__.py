"""Coverage-guided fuzzing of what reads a stranger's bytes: `make fuzz`. Inputs that broke a rule are kept in `corpus/`, and
tests/fuzz/test_targets.py runs them again."""
