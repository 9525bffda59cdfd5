"""The table of optimizers: name -> class path and defaults; a class is imported when it is chosen."""

from trainer.registry import Registry

OPTIMIZERS: Registry[str] = Registry(
    "optimizer",
    {
        "AdamW": "torch.optim.AdamW",
        "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
        "Adafactor": "transformers.optimization.Adafactor",
        "Lion": "lion_pytorch.Lion",
        "Prodigy": "prodigyopt.Prodigy",
        "SGDNesterov": "torch.optim.SGD",
    },
)
