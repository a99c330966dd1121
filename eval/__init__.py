"""Evaluation: benchmarks, scoring, statistics, reports."""
