"""Write a cache that is in memory: the shards of an extraction, and small caches in tests."""

from pathlib import Path

from qamro_cache.cache.checks import check_content
from qamro_cache.cache.container_writer import write_container
from qamro_cache.cache.content import CacheContent, Header
from qamro_cache.cache.layout import arrays_of, attributes_of
from qamro_cache.cache.tables import Tables, open_tables


def write_cache(path: Path, content: CacheContent, header: Header) -> None:
    """Publish a cache file: whole, on disk and verified, or not at all.

    Args:
        path: file to make; one of that name is replaced in one step.
        content: what to store; features must be what ``header.identity`` promises.
        header: identity, dataset, provenance.

    Raises:
        QamroError: the parts do not fit each other, the disk is full, or the folder cannot be
            written to.
    """
    check_content(content, header)
    write_container(Path(path), attributes_of(header), arrays_of(content), check_file)


def check_file(path: Path) -> Tables:
    """Read a file back in full (structure, checksums, the fit of its parts); return its tables."""
    tables = open_tables(path)
    for name in tables.container.extents:
        tables.container.check(name)
    return tables
