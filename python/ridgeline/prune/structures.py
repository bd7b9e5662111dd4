"""The structures of `ridgeline.structures`, at the place where pickles of before look for them."""

from ..structures import NM, Block, Channels, columns, rows

__all__ = ["NM", "Block", "Channels", "columns", "rows"]
