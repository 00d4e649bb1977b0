"""Endurance: a deployment of real processes under mixed load and faults, for hours.

Holds the soak's own services, load, faults, measures and judge. May use the torture's arena and
`holdfast.testing`. Must never keep more than one window of history: it has to be flat itself.
"""
