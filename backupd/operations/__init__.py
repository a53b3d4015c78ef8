"""The verbs: snapshot, restore, forget, prune, check, replicate."""
