"""Detection heads: the last row of a layer table."""
