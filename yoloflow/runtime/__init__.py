"""The machine: device, ranks, memory, random generators."""
