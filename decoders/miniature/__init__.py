"""Miniature generative models for the miniature world, in the layouts of diffusers and transformers."""
