"""Benchmarks of `terrazzo bench`: throughput of a workload, and times of single steps."""
