"""Strategies: each file is one method and nothing else."""
