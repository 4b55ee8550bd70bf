"""Guards: they stop a training with a clear message where it cannot go on well."""
