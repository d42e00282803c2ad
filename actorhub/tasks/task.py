"""Specification of a task: the `@task` decorator, and `TaskSpec`. The decorated function stays a plain function. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ParamSpec, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actorhub.core.addressing import check_name
from actorhub.core.resources import Resources
from actorhub.tasks.retry import Retry
from actorhub.wire.method_signature import Signature

P = ParamSpec("P")
R = TypeVar("R")
SPEC = "__actorhub_task__"
DEFAULT_QUEUE = "default"
HIGHEST_PRIORITY = 31


class TaskOptions(BaseModel):
    """Options of `@task`, which describes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    queue: str = DEFAULT_QUEUE
    retry: Retry | None = None
    timeout: float | None = Field(default=None, gt=0)
    priority: int = Field(default=0, ge=0, le=HIGHEST_PRIORITY)
    max_redeliveries: int = Field(default=3, ge=0)
    resources: Resources = Field(default_factory=dict)

    @field_validator("queue")
    @classmethod
    def _usable_in_a_name(cls, value: str) -> str:
        return check_name("the queue", value)


@dataclass(frozen=True)
class TaskSpec:
    """A function that runs as a task, its options and its signature."""

    function: Callable[..., Any]
    options: TaskOptions

    @property
    def name(self) -> str:
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @cached_property
    def signature(self) -> Signature:
        module = (self.function.__module__ or "").rpartition(".")[2]
        return Signature.of(self.function, owner=module, bound=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskSpec, (self.function, self.options)


tasks: dict[str, TaskSpec] = {}
"""Tasks that a node may run by name: every task function that this process has imported, by `module:qualname`."""


@overload
def task(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def task(
    *,
    queue: str = DEFAULT_QUEUE,
    retry: Retry | None = None,
    timeout: float | None = None,
    priority: int = 0,
    max_redeliveries: int = 3,
    resources: dict[str, float] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task, and return the function itself, which can still be called.

    Workers compete for the tasks of a queue. A `def` task has its worker's slot for itself and can be killed; `async def`
    tasks share a slot; generators stream their items.

    Args:
        function: the function.
        queue: the task queue; queues do not hold each other up.
        retry: retry policy for a task that raised; by default it is not tried again.
        timeout: seconds that one attempt may take; then it is ended, and counts as one that raised CallTimeout.
        priority: 0 to 31. RabbitMQ 4 serves those above 4 before the others; older versions have no priorities.
        max_redeliveries: times that a task may kill its worker before it becomes a dead letter.
        resources: resources reserved while it runs, such as `{"cpu": 2, "gpu": 1}`. Slots for such tasks are started on
            nodes with room while any wait, and end when none come. Without it, a task runs in one of every node's slots.

    Raises:
        TypeError: `function` is not a function.
        pydantic.ValidationError: an option is unknown or out of range.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(function, type) or not callable(function) or not hasattr(function, "__qualname__"):
            raise TypeError(f"{function!r} is not a function; use @actor for classes")
        given = {name: value for name, value in options.items() if value is not None}
        spec = TaskSpec(function, TaskOptions(**given))
        tasks[spec.name] = spec
        setattr(function, SPEC, spec)
        return function

    return decorate if function is None else decorate(function)


def task_of(function: Callable[..., Any]) -> TaskSpec:
    """Specification of a task; a function without `@task` has the default options.

    Raises:
        TypeError: `function` is not a function.
    """
    spec = getattr(function, SPEC, None)
    if isinstance(spec, TaskSpec):
        return spec
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise TypeError(f"{function!r} is not a function; submit functions, or spawn an @actor class")
    return TaskSpec(function, TaskOptions())


def is_registered(spec: TaskSpec) -> bool:
    """True if nodes that import the function's module find the task by name."""
    return tasks.get(spec.name) is spec
