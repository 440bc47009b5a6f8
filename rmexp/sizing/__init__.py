"""What a run will need: memory by part, tokens, FLOPs; no weights are loaded."""
