"""Trees and proofs are those of RFC 6962: held against its definitions, written out, and against known roots."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest

from lifecycle.audit.merkle import EMPTY, Peaks, Tree, leaf_hash, verify_consistency, verify_inclusion

SIZES = range(1, 34)

# The entries and roots that the first Certificate Transparency logs were tested with.
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(size):
    return [leaf_hash(b"%d" % n) for n in range(size)]


def split(size):
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def mth(hashes):
    """RFC 6962, 2.1, over the hashes of the entries."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return sha256(b"\1" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def path(m, hashes):
    """RFC 6962, 2.1.1."""
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if m < k:
        return [*path(m, hashes[:k]), mth(hashes[k:])]
    return [*path(m - k, hashes[k:]), mth(hashes[:k])]


def proof(m, hashes, *, whole=True):
    """RFC 6962, 2.1.2."""
    if m == len(hashes):
        return [] if whole else [mth(hashes)]
    k = split(len(hashes))
    if m <= k:
        return [*proof(m, hashes[:k], whole=whole), mth(hashes[k:])]
    return [*proof(m - k, hashes[k:], whole=False), mth(hashes[:k])]


def test_the_roots_are_those_of_certificate_transparency():
    peaks = Peaks()
    hashes = [leaf_hash(entry) for entry in ENTRIES]
    for n, root in enumerate(ROOTS):
        peaks.add(hashes[n])
        assert peaks.root().hex() == root
        assert Tree(hashes).root(n + 1).hex() == root


def test_the_empty_tree():
    assert Peaks().root() == Tree([]).root() == EMPTY == mth([])


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_is_as_the_rfc_defines_it(size):
    hashes = leaves(size)
    tree, peaks = Tree(hashes), Peaks()
    for hash_ in hashes:
        peaks.add(hash_)
    assert tree.root() == peaks.root() == mth(hashes)
    assert len(peaks.hashes) == size.bit_count()
    resumed = Peaks(size, peaks.hashes)
    resumed.add(hashes[0])
    assert resumed.root() == mth([*hashes, hashes[0]])
    for m in range(size):
        assert tree.inclusion_path(m) == path(m, hashes)
        assert tree.consistency_path(m + 1) == proof(m + 1, hashes)
        assert tree.inclusion_path(m // 2, m + 1) == path(m // 2, hashes[: m + 1])


@pytest.mark.parametrize("size", SIZES)
def test_an_inclusion_is_shown_by_its_path_alone(size):
    hashes = leaves(size)
    tree = Tree(hashes)
    for index in range(size):
        right = {"leaf": hashes[index], "index": index, "size": size, "path": tree.inclusion_path(index)}
        assert verify_inclusion(**right, root=tree.root())
        wrong = [{"leaf": leaf_hash(b"another")}, {"index": -1}, {"index": size}, {"size": index}]
        wrong += [{"index": n} for n in range(size) if n != index]
        wrong += [{"path": other} for other in changed(right["path"])]
        for change in wrong:
            assert not verify_inclusion(**{**right, **change}, root=tree.root()), change
        assert not verify_inclusion(**right, root=EMPTY)


@pytest.mark.parametrize("size", SIZES)
def test_consistency_is_shown_by_its_path_alone(size):
    hashes = leaves(size)
    tree = Tree(hashes)
    for first in range(size + 1):
        right = {
            "first": first, "first_root": tree.root(first), "second": size, "second_root": tree.root(),
            "path": tree.consistency_path(first),
        }  # fmt: skip
        assert verify_consistency(**right)
        wrong = [{"first_root": leaf_hash(b"another")}, {"first": -1}, {"first": size + 1}]
        wrong += [{"path": other} for other in changed(right["path"])]
        if first:  # what the empty tree is continued by needs no proof: anything does
            wrong.append({"second_root": leaf_hash(b"another")})
            wrong += [{"first": n} for n in range(1, size) if n != first]
        for change in wrong:
            assert not verify_consistency(**{**right, **change}), (first, change)


def changed(hashes):
    """Each hash left out, repeated and with a bit changed, and one more at each end."""
    for n, hash_ in enumerate(hashes):
        yield [*hashes[:n], *hashes[n + 1 :]]
        yield [*hashes[: n + 1], *hashes[n:]]
        yield [*hashes[:n], bytes([hash_[0] ^ 1]) + hash_[1:], *hashes[n + 1 :]]
    yield [leaf_hash(b"more"), *hashes]
    yield [*hashes, leaf_hash(b"more")]


def test_a_large_tree():
    picked = random.Random(5)
    hashes = leaves(10_007)
    tree = Tree(hashes)
    assert tree.root() == mth(hashes)
    for index in picked.sample(range(len(hashes)), 50):
        size = picked.randint(index + 1, len(hashes))
        found = tree.inclusion_path(index, size)
        assert verify_inclusion(leaf=hashes[index], index=index, size=size, path=found, root=tree.root(size))


@pytest.mark.parametrize("ask", [lambda t: t.root(4), lambda t: t.root(-1), lambda t: t.inclusion_path(3),
                                 lambda t: t.inclusion_path(2, 2), lambda t: t.inclusion_path(-1),
                                 lambda t: t.inclusion_path(0, 4), lambda t: t.consistency_path(4)])  # fmt: skip
def test_what_is_not_in_a_tree_is_refused(ask):
    with pytest.raises(IndexError, match="of 3"):
        ask(Tree(leaves(3)))


@pytest.mark.parametrize(("size", "count"), [(3, 1), (4, 2), (0, 1), (-1, 1), (1, 0)])
def test_peaks_fit_their_size(size, count):
    with pytest.raises(ValueError, match="peaks"):
        Peaks(size, leaves(count))
