"""Weights on disk and weights of other projects."""
