"""What an optimizer step is made of: prefix trees, collation, batch plans, stored activations.

Imports core and what stands above this package in docs/architecture.md. Start with `collate`.
"""
