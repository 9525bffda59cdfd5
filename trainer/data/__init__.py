"""Pictures and captions on their way into the model. Only `latents` and `loader` need torch."""
