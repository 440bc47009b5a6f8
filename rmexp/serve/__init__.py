"""The HTTP server of a reward model, and its page.

Imports packages down to training. Start with `app`.
"""
