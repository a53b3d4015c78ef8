"""How it is kept: packs, index, trees, snapshots, keys, and collection without locks."""
