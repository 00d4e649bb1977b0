"""The page of results: `docs/reliability.md` and the lines in README, from the JSON of real runs.

Holds what was demanded, the schema of results, and the page. May use the names of the planted bugs.
Must never: know a figure by itself, or leave out what was demanded and not run.
"""
