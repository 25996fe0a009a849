"""Files: reading pictures from any source, fetching and verifying pretrained weights, writing files atomically."""
