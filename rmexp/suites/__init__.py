"""The public suites' scores, as their publishers define them: one small callable each.

A suite takes scored comparisons and gives scores with intervals. A score is a function of the means
of its subsets, so that one bootstrap serves all of them: prompts are drawn within subsets.
"""
