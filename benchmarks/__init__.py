"""What docs/performance.md quotes; one command each."""
