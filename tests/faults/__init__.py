"""Faults injected at seeded random moments; `benchmarks/faults.py` runs more of them."""
