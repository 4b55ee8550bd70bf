"""Step 8: the loop, and what guards it."""
