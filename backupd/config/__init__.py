"""The YAML schema, its errors that name the line, and the settings the rest works with."""
