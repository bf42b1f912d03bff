"""What quality and speed are; run by hand (`python -m tests.benchmarks.quality`), never by pytest."""
