"""What runs in the training process, and the torch-free declarations the page shares with it."""
