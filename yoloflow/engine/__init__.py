"""What runs a training: step, loop, callbacks, states on disk, test function."""
