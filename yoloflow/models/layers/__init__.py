"""The blocks that rows of a layer table name."""
