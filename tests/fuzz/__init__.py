"""Coverage-guided fuzzing of what reads a stranger's bytes: `make fuzz`. Inputs that broke a rule are kept in `corpus/`, and
tests/test_fuzz.py runs them again."""
