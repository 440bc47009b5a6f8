"""What a run needs, estimated without its weights. Start with `estimate`."""
