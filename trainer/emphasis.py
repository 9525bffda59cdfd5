"""Words that weigh more or less: (word), [word] and (word:1.3), as AUTOMATIC1111's web UI has them."""

import re

UP, DOWN = 1.1, 1 / 1.1
"""What one pair of ( ) or [ ] does to the weight of its text, as in AUTOMATIC1111's web UI."""

TOKEN = re.compile(
    r"""\\(?P<escaped>.)                              # \( is a plain (
      | :\s*(?P<weight>[+-]?(\d+\.?\d*|\.\d+))\s*\)   # :1.3) closes a ( and says how much
      | (?P<mark>[()\[\]])
      | (?P<text>[^\\()\[\]:]+ | : | \\)""",
    re.VERBOSE | re.DOTALL,
)


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Pieces of a caption with their weights: (a) counts 1.1 times, [a] 1/1.1, (a:1.3) 1.3 times; they nest.

    A backslash makes the next character plain. A bracket left open reaches to the end; one that closes nothing is text.
    At least one piece is returned, `("", 1.0)` for an empty text; neighbours of equal weight are one piece.
    """
    pieces: list[tuple[str, float]] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    for token in TOKEN.finditer(text):
        mark, weight = token["mark"], token["weight"]
        if mark in ("(", "["):
            open_at[mark].append(len(pieces))
        elif mark == ")" and open_at["("]:
            multiply(open_at["("].pop(), UP)
        elif mark == "]" and open_at["["]:
            multiply(open_at["["].pop(), DOWN)
        elif weight is not None and open_at["("]:
            multiply(open_at["("].pop(), float(weight))
        elif token["escaped"] is not None:
            pieces.append((token["escaped"], 1.0))
        else:
            pieces.append((token[0].removeprefix("\\"), 1.0))
    for starts, factor in ((open_at["("], UP), (open_at["["], DOWN)):
        for start in starts:
            multiply(start, factor)
    return _joined(pieces)


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    result: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if result and result[-1][1] == weight:
            result[-1] = (result[-1][0] + piece, weight)
        else:
            result.append((piece, weight))
    return result or [("", 1.0)]
