"""Bytes in and out: pictures read from any source, pretrained weights fetched and verified, files written whole."""
