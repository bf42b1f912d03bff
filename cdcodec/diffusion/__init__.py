"""Diffusion without networks: schedules, predictions, samplers, noise and tiles."""
