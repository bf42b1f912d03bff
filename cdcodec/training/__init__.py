"""Training: recipes, data, loop, checkpoints, export."""
