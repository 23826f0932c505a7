"""Benchmarks, restored and measured: numbers per image, their statistics and tables."""

from sspir.evaluation.benchmark import Benchmark

__all__ = ["Benchmark"]
