"""Bytes to blob and back: chunking, encoding, sealing. Pure: no disk, no clock, no network."""
