"""Step 5: one training step, from a batch of images to updated weights."""
