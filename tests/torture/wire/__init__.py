"""Faults on the wire to a real Kafka, and of the brokers themselves, against the bus alone.

The workload is the barest there is: lanes (`lanes`), each the owner of one slot, that commit
numbers one after the other to several topics, with the offset, over `open_writer` and `commit`.
What they left is checked by reading it (`check`). So a fault takes milliseconds, and hundreds of
one kind fit into minutes. `faults` has the same faults for the torture of the whole system.

    python -m tests.torture.wire --faults cuts,torn --count 100 --seed 1 --results FOLDER
"""
