"""Jobs that write captions, a file each."""
