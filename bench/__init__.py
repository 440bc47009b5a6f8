"""Benchmarks side by side with TRL; `python -m bench` writes RESULTS.md."""
