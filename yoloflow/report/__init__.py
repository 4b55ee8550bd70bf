"""What people look at: boxes on pictures, curves of a training."""
