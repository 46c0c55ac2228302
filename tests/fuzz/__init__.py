"""Coverage-guided fuzzing of the code that reads untrusted bytes: `make fuzz`.

Inputs that violated a rule are stored in `corpus/`, and tests/fuzz/test_targets.py runs them again.
"""
