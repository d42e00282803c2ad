"""The actor of the main job, and its work as a plain function. `actorhub node examples.indexer` serves it."""

import io
import keyword
import tokenize
from collections import Counter

from actorhub import actor


def identifiers(source: str) -> Counter[str]:
    """How often each identifier stands in Python source. Keywords do not count; source that is not Python, as
    among the tests of a compiler, counts as far as it can be read."""
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
    """Counts one file for each call and keeps nothing: a call that is delivered again, after its worker died,
    has the same answer. As every ask is answered once, no file counts twice."""

    def count(self, source: str) -> dict[str, int]:  # not async: it computes, so it runs in a thread
        return identifiers(source)
