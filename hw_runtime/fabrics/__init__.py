"""Fabrics: who holds the buffers of the ranks, and who moves bytes between them.

One interface (`base.Fabric`), four backends: `host` (all ranks in this process, on the CPU),
`virtual` (all ranks as buffers of one GPU), `ipc` (one process a rank on one host) and `symm`
(torch symmetric memory, one GPU a rank). Each executes the same task list.
"""

from .base import FABRICS, Fabric, Geometry, open_fabric

__all__ = ["FABRICS", "Fabric", "Geometry", "open_fabric"]
