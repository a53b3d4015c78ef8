"""What a person types: one module per family of commands, no logic of its own."""
