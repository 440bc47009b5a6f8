"""Formats: one small frozen callable each, from a raw row to a `Comparison`.

A format raises `BadRow` with the reason when it cannot use a row. To add one, write a frozen
dataclass whose `__call__(row) -> Comparison` does the same and name it in `data.format._target_`.
"""
