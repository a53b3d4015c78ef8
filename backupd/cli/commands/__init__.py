"""One module per family of commands; each imports what it needs when it is run."""
