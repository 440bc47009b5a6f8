"""What has no domain: errors, console, distributed processes, caches on disk, memory, devices.

Imports nothing of rmexp. Start with `errors`.
"""
