"""What the latent diffusion families share: the small prior's training and files."""
