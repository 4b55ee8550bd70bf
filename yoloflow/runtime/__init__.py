"""What depends on the machine: device, ranks, memory, random generators."""
