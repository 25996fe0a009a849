"""Bytes in: pictures read from any source, and pretrained weights, fetched and verified."""
