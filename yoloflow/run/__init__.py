"""The run folder: its files, its lock, training states and signals."""
