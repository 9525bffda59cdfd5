"""Other jobs on LoRA and model files, a file each."""
