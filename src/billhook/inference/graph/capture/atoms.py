"""Dimensions as products of atoms, so that reshapes and transposes need not move numbers.

A tensor's dimensions and the axes that its numbers are stored along are both lists of atoms, from
the slowest to the fastest. A reshape splits and joins atoms, a transpose orders dimensions anew;
neither changes what is stored. An operation asks for the axes that it reads, and only where these
differ from those that are stored is a copy made.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from billhook.inference.graph.ops import UnsupportedError

__all__ = ["Atom", "Atoms", "atoms_of", "expand", "pair", "regroup", "size_of"]


@dataclass(eq=False)
class Atom:
    """A dimension, or a factor of one; once it is split, its parts stand for it."""

    size: int
    parts: tuple["Atom", "Atom"] | None = field(default=None, repr=False)

    def split(self, slower: int) -> tuple["Atom", "Atom"]:
        """Two atoms instead, of which the slower one has this size."""
        assert self.parts is None
        assert self.size % slower == 0
        self.parts = Atom(slower), Atom(self.size // slower)
        return self.parts


Atoms = tuple[Atom, ...]


def expand(atoms: Iterable[Atom]) -> Atoms:
    """The atoms with split ones replaced by their parts, without those of size 1.

    >>> atom = Atom(12)
    >>> parts = atom.split(3)
    >>> expand((atom, Atom(1))) == parts
    True
    """
    flat: list[Atom] = []
    for atom in atoms:
        if atom.parts is not None:
            flat += expand(atom.parts)
        elif atom.size > 1:
            flat.append(atom)
    return tuple(flat)


def size_of(atoms: Iterable[Atom]) -> int:
    """How many elements the atoms count."""
    return math.prod(atom.size for atom in atoms)


def atoms_of(size: int) -> Atoms:
    """A new dimension of a size."""
    return () if size == 1 else (Atom(size),)


def regroup(atoms: Iterable[Atom], sizes: Sequence[int], whole: Atom | None = None) -> list[Atoms]:
    """The atoms in groups of these sizes, split where a group ends within one.

    Raises:
        UnsupportedError: A group would take a part of an atom that does not divide, or ``whole``.

    >>> [size_of(group) for group in regroup((Atom(6), Atom(4)), (3, 8))]
    [3, 8]
    """
    rest, groups = list(expand(atoms)), []
    for size in sizes:
        group: list[Atom] = []
        missing = size
        while missing > 1:
            if not rest:
                raise UnsupportedError(f"a reshape to {tuple(sizes)}")
            atom = rest.pop(0)
            if missing % atom.size:
                if atom.size % missing or atom is whole:
                    raise UnsupportedError(f"a reshape to {tuple(sizes)} across dimensions")
                atom, left = atom.split(missing)
                rest.insert(0, left)
            group.append(atom)
            missing //= atom.size
        groups.append(tuple(group))
    return groups


def pair(first: Atoms, second: Atoms) -> dict[Atom, Atom]:
    """For two dimensions of one size, which atom of the second each atom of the first is; both are
    split where the other ends.

    Raises:
        UnsupportedError: They have no common factors.
    """
    a, b, found = list(expand(first)), list(expand(second)), {}
    while a and b:
        x, y = a.pop(0), b.pop(0)
        if x.size > y.size and x.size % y.size == 0:
            x, left = x.split(y.size)
            a.insert(0, left)
        elif y.size > x.size and y.size % x.size == 0:
            y, left = y.split(x.size)
            b.insert(0, left)
        if x.size != y.size:
            raise UnsupportedError("dimensions that are split in different ways meet")
        found[x] = y
    return found
