"""Where it is kept: a small object-store protocol and its local, NAS and S3 forms."""
