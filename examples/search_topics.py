"""A search engine for the Python language reference, whose text ships with Python (`pydoc_data`).

    python -m examples.search_topics "how do I catch an exception"

One task for each topic counts its words. `gather_into` passes all counts to one task, which weights them by the rarity
of each word (tf-idf) and returns the index. The index stays on the node where it was made, and each question is a task
that reads it there. At the end the program compares the answers with those of the same functions in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from collections import Counter
from pydoc_data.topics import topics

from actorhub import Hub, task
from actorhub.cluster import BrokerChoice

Index = dict[str, dict[str, float]]
"""For each word, the topics that contain it, and its weight in each."""

_WORD = re.compile(r"[a-z_]{3,}")
SHOWN = 5


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without trailing s."""
    return [word.rstrip("s") for word in _WORD.findall(text.lower())]


@task
def count(topic: str) -> tuple[str, dict[str, int]]:
    return topic, Counter(words(topics[topic]))


@task
def index(counted: list[tuple[str, dict[str, int]]]) -> Index:
    found: Index = {}
    for topic, counts in counted:
        total = sum(counts.values())
        for word, times in counts.items():
            found.setdefault(word, {})[topic] = times / total
    for word, places in found.items():
        rarity = math.log(len(counted) / len(places))
        found[word] = {topic: share * rarity for topic, share in places.items()}
    return found


@task
def search(found: Index, question: str) -> list[tuple[str, float]]:
    """Return the best topics and their scores, best first."""
    scores: Counter[str] = Counter()
    for word in words(question):
        scores.update(found.get(word, {}))
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:SHOWN]


async def main(questions: list[str], broker: BrokerChoice) -> None:
    async with Hub.local(workers=1, slots=2, broker=broker, modules=["examples.search_topics"]) as hub:
        made = hub.gather_into(index, count, sorted(topics))
        asked = [hub.submit(search, made.as_argument(), question) for question in questions]
        answers = await hub.get(asked)
    here = index([count(topic) for topic in sorted(topics)])
    for question, answer in zip(questions, answers, strict=True):
        print(f"{question}?")
        for topic, score in answer:
            print(f"  {score:.4f}  {topic}")
        if answer != search(here, question):
            raise SystemExit("the answer differs from the same search in one process")
    print(f"the same as in one process: {len(topics)} topics, {len(here):,} words")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.search_topics")
    parser.add_argument(
        "questions", nargs="*", default=["how do I catch an exception", "what does a with statement do"]
    )
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    options = parser.parse_args()
    asyncio.run(main(options.questions, options.broker))
