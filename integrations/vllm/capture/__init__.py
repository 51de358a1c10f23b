"""`saeguard capture`: what a model's watched features say to given requests, as recordings."""
