"""task=convert: experiment files from configurations of TRL and Axolotl.

Imports core and config. Start with `task` and tables.yaml, which has a row for each key.
"""

from rmexp.tasks.convert.task import convert
