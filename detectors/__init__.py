"""Detectors: find the words of an answer that the picture does not support."""
