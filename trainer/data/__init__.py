"""Pictures and captions on their way into the model. `dataset` describes them without torch; `latents` and `loader` use it."""
