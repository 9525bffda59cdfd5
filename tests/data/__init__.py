"""Tests of the data: folders, pictures, captions, buckets, latents and batches."""
