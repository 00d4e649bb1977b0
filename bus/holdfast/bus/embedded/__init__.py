"""The embedded bus: one SQLite file that many processes of one machine read and write.

    EmbeddedBus       the port's `Bus`, and a table of blobs beside the log
    EmbeddedSettings  where the file is, and its limits
    in_use            whether a living process has a file open

May use: `holdfast.bus.port`, `holdfast.bus.errors`, `holdfast.bus.partition`, SQLite, threads.
Must never: open the file other than through SQLite, hold a transaction while waiting, fork.
"""

from holdfast.bus.embedded.blobs import BlobInfo
from holdfast.bus.embedded.bus import EmbeddedBus, in_use
from holdfast.bus.embedded.settings import EmbeddedSettings, Synchronous

__all__ = ["BlobInfo", "EmbeddedBus", "EmbeddedSettings", "Synchronous", "in_use"]
