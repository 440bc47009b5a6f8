"""Routes by consumer. Start with `own`."""
