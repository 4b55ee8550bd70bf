"""Step 4: parameter groups, learning-rate and momentum schedules, optimizers, the averaged network."""
