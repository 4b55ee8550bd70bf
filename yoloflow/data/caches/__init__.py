"""Caches of decoded images and of indexed data sets; never stale, never pickle."""
