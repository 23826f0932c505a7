"""Our own networks: loaded from a run, a saved pipeline or the authors' checkpoint, and exported."""
