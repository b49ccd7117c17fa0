"""One suite, run on every backend through the fixtures of conftest.py."""
