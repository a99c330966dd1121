"""The recipe that trained the built-in models."""
