"""Reward models: loading, reward head, tree attention, layout check, trainable parts.

Imports core, config, templates, batching and data. Start with `reward_model`.
"""
