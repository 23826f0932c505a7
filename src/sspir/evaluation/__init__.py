"""Restoring benchmarks and measuring them: numbers per image, their statistics and tables."""
