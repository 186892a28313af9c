"""A full disk, as far as a test may make one."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Inside, the system lets no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
