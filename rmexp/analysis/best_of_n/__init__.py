"""Best-of-n with reward models: how far the chosen responses are better by a gold reward.

Start with `study`.
"""
