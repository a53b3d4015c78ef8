"""What is on disk: scan, exclusion, metadata, and reading that notices change."""
