"""Where a model came from: the state of its source code, and what ran it. Nothing is changed."""
