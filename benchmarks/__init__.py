"""Measurements, as ratios within one run wherever possible; never timed tests.

make bench                                   all of it
make bench ARGS='--bus sqlite --quick'       a part, shorter
"""
