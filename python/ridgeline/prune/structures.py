"""The structures of `ridgeline.structures`, where pickles of older versions look for them."""

from ..structures import NM, Block, Channels, columns, rows

__all__ = ["NM", "Block", "Channels", "columns", "rows"]
