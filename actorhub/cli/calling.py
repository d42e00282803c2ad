"""The command that calls an actor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from actorhub.cli.common import Namespace, Url, fail, look, print_json, settings_from
from actorhub.errors import ActorHubError


def call(
    name: Annotated[str, typer.Argument(help="The actor's name.")],
    method: str,
    arguments: Annotated[str, typer.Argument(help="A JSON object of arguments, such as '{\"amount\": 5}'.")] = "{}",
    url: Url = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 30.0,
) -> None:
    """Call a method of a named actor and print its answer as JSON. The class need not be importable here."""
    try:
        known = json.loads(arguments)
    except json.JSONDecodeError as exc:
        fail(f"the arguments {arguments!r} are not JSON: {exc}")
    if not isinstance(known, dict):
        fail(f"the arguments {arguments!r} are not a JSON object; write them as '{{\"amount\": 5}}'")
    settings = settings_from(url, namespace)
    try:
        answer = look(settings, lambda hub: hub.call_by_name(name, method, known), timeout=timeout)
    except ActorHubError:
        raise
    except Exception as exc:  # the actor's own
        fail("\n".join([f"{type(exc).__name__}: {exc}", *getattr(exc, "__notes__", ())]))
    print_json(answer)
