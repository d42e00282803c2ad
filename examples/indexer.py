"""The actor of the demo, and its work as a plain function. `actorhub node examples.indexer` serves it."""

import io
import keyword
import tokenize
from collections import Counter

from actorhub import actor


def identifiers(source: str) -> Counter[str]:
    """Count the identifiers in Python source, without keywords.

    Source that is not valid Python, as in the tests of a compiler, is counted up to the first error.
    """
    counts: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                counts[token.string] += 1
    except (tokenize.TokenError, SyntaxError):
        pass
    return counts


@actor
class Indexer:
    """Counts one file for each call, without state.

    A call that is delivered again, after its worker died, has the same reply. Each call gets one reply, so no file
    counts twice.
    """

    def count(self, source: str) -> dict[str, int]:  # not async, so it runs in a thread and may compute
        return identifiers(source)
