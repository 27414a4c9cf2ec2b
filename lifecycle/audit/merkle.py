"""Merkle trees over the entries of a log: hashes, proofs that an entry is in one, and that one continues another.

Rule: the hashing is that of RFC 6962, section 2.1, with SHA-256, so any Certificate Transparency tool can check it.
Functions over bytes; no store and no record is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Self

__all__ = ["EMPTY", "Peaks", "Tree", "leaf_hash", "verify_consistency", "verify_inclusion"]

EMPTY: Final = sha256(b"").digest()
"""The root of a tree without entries."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\0" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class Peaks:
    """The roots of the perfect trees that a log of `size` entries is made of, largest first.

    All that is needed to go on with a tree and to tell its root: one hash for each bit that is set in `size`.

    Args:
        size: Number of entries.
        hashes: The peaks at that size.

    Raises:
        ValueError: A tree of that size has another number of peaks.
    """

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count():
            msg = f"a tree of {size} entries has {max(size, 0).bit_count()} peaks and not {len(hashes)}"
            raise ValueError(msg)
        self.size = size
        self.hashes = list(hashes)

    def add(self, leaf: bytes) -> None:
        """Add an entry, given its leaf hash."""
        size = self.size
        hashes = self.hashes
        while size & 1:
            leaf = sha256(b"\1" + hashes.pop() + leaf).digest()
            size >>= 1
        hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree."""
        if not self.hashes:
            return EMPTY
        *rest, root = self.hashes
        for peak in reversed(rest):
            root = _node(peak, root)
        return root

    @classmethod
    def from_hex(cls, size: int, hashes: Sequence[str]) -> Self:
        """The peaks as `in_hex` gave them.

        Raises:
            ValueError: One is not in hex, or a tree of that size has another number of peaks.
        """
        return cls(size, [bytes.fromhex(peak) for peak in hashes])

    def in_hex(self) -> tuple[str, ...]:
        """The peaks as they are written down."""
        return tuple(peak.hex() for peak in self.hashes)


class Tree:
    """The tree over these leaf hashes, with every hash in it: as much memory again as they take.

    Args:
        leaves: The hashes of all entries, in their order.
        before: The peaks over entries before these, of which nothing else is known; there is no path for them.
    """

    __slots__ = ("_levels", "size")

    def __init__(self, leaves: Sequence[bytes], before: Peaks | None = None) -> None:
        gone = before.size if before is not None else 0
        self.size = gone + len(leaves)
        self._levels: list[list[bytes | None]] = [[*[None] * gone, *leaves]]
        while len(below := self._levels[-1]) > 1:
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([None if a is None or b is None else _node(a, b) for a, b in pairs])
        if before is not None:
            self._know(before)

    def _know(self, before: Peaks) -> None:
        """Put the peaks where they belong, and what follows from them above."""
        at = 0
        bits = [bit for bit in range(before.size.bit_length(), -1, -1) if before.size >> bit & 1]
        for level, peak in zip(bits, before.hashes, strict=True):
            self._levels[level][at >> level] = peak
            at += 1 << level
        for level, row in enumerate(self._levels[1:], 1):
            below = self._levels[level - 1]
            for n, known in enumerate(row):
                a, b = below[2 * n], below[2 * n + 1]
                if known is None and a is not None and b is not None:
                    row[n] = _node(a, b)

    def root(self, size: int | None = None) -> bytes:
        """The root over all entries, or over the first `size`.

        Raises:
            IndexError: There are not so many entries.
        """
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            msg = f"no tree of {size} in one of {self.size}"
            raise IndexError(msg)
        return self._root(0, size) if size else EMPTY

    def _root(self, begin: int, end: int) -> bytes:
        size = end - begin
        if size & (size - 1) == 0:  # perfect: `begin` is a multiple of it
            level = size.bit_length() - 1
            known = self._levels[level][begin >> level]
            if known is None:
                msg = f"entries {begin} to {end - 1} are gone"
                raise IndexError(msg)
            return known
        middle = begin + _split(size)
        return _node(self._root(begin, middle), self._root(middle, end))

    def inclusion_path(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of the entry with that index, from 0, in the tree over the first `size`: lowest hash first.

        Raises:
            IndexError: There is no such entry, or it is gone.
        """
        size = self.size if size is None else size
        if not 0 <= index < size <= self.size:
            msg = f"no entry {index} in a tree of {size} of {self.size}"
            raise IndexError(msg)
        path = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin = middle
        return path[::-1]

    def consistency_path(self, first: int) -> list[bytes]:
        """The proof that the tree continues that over the `first` entries: RFC 6962, section 2.1.2.

        Raises:
            IndexError: There are not so many entries.
        """
        if not 0 <= first <= self.size:
            msg = f"no tree of {first} in one of {self.size}"
            raise IndexError(msg)
        if first in (0, self.size):
            return []
        path = []
        begin, end, whole = 0, self.size, True
        while first != end:
            middle = begin + _split(end - begin)
            if first <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self._root(begin, end))
        return path[::-1]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(*, leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """True when `path` shows that entry `index` of a tree of `size` with that root has that leaf hash.

    The algorithm of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf
    for hash_ in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = _node(hash_, found)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            found = _node(found, hash_)
        node >>= 1
        last >>= 1
    return last == 0 and found == root


def verify_consistency(
    *, first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """True when `path` shows that the tree of `second` entries begins with that of `first`.

    The algorithm of RFC 9162, section 2.1.4.2; the empty tree is the beginning of each, by nothing but its root.
    """
    if not 0 <= first <= second:
        return False
    if first in (0, second):
        return not path and (first_root == second_root if first == second else first_root == EMPTY)
    hashes = list(path)
    if first & (first - 1) == 0:
        hashes.insert(0, first_root)
    if not hashes:
        return False
    node, last = first - 1, second - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = hashes[0]
    for hash_ in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = _node(hash_, old), _node(hash_, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = _node(new, hash_)
        node >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root
