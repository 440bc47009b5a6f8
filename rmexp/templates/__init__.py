"""Messages to text: chat templates, rendering, and the audit of a template.

Imports core, config and comparison. Start with `template`.
"""
