"""Marks: a set of numbers of events, one bit each."""

from __future__ import annotations


class Marks:
    """Numbers that were seen, in a bit each: a million of them take 125 kB if they lie together.

    Attributes
    ----------
    n : int
        How many were seen.
    """

    def __init__(self) -> None:
        self.n = 0
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> bool:
        """Mark *number*. Return whether it had no mark before."""
        page, place = divmod(number, _PAGE)
        bits = self._pages.get(page)
        if bits is None:
            bits = self._pages[page] = bytearray(_PAGE // 8)
        byte, bit = place >> 3, 1 << (place & 7)
        if bits[byte] & bit:
            return False
        bits[byte] |= bit
        self.n += 1
        return True


_PAGE = 8 * 4096
"""The numbers of a page of bits."""
