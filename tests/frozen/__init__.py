"""Logs of released versions: each is loaded under the newest code, and has to go on from there.

PYTHONPATH=<that version's agents, bus, coordinator, schemas> python -m tests.frozen.make FILE
"""
