"""Data sets: formats, samples, transforms, loaders."""
