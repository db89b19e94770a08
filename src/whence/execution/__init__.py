"""Where a pass over data runs: in this process, or on a cluster; the result is the same."""

from whence.execution.ray import run_on_ray
from whence.execution.serial import run_serial, shards_of

__all__ = ["run_on_ray", "run_serial", "shards_of"]
