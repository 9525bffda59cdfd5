"""How a layer's width is split into two factors, as LyCORIS does it; plain arithmetic."""


def split(width: int, factor: int = -1) -> tuple[int, int]:
    """(small, large) with small * large = width; `factor` is one of the two where it divides the width.

    Where it does not, and for -1, the two are as near to each other as they can be, with small at most `factor`.
    """
    if factor > 0 and width % factor == 0:
        return min(factor, width // factor), max(factor, width // factor)
    limit = width if factor < 0 else factor
    small = max((m for m in range(1, int(width**0.5) + 1) if width % m == 0 and m <= limit), default=1)
    return small, width // small


def butterfly(width: int, limit: int) -> tuple[int, int]:
    """(block, count) with block * count = width, block even and at most `limit`, count a power of two.

    (0, 0) where there is none: an odd width, or a limit below `smallest_butterfly`.
    """
    best = (0, 0)
    count = 1
    while width % count == 0 and width // count >= 2:
        block = width // count
        if block % 2 == 0 and block <= limit:
            return block, count
        count *= 2
    return best


def smallest_butterfly(width: int) -> int:
    """The smallest block that `butterfly` can give for a width: twice its odd part. 0 for odd widths."""
    if width % 2:
        return 0
    while width % 2 == 0:
        width //= 2
    return 2 * width


def stages(count: int) -> int:
    """How many stages a butterfly of `count` blocks has: each value reaches every place."""
    return count.bit_length()
