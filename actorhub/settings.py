"""Settings, each from an argument or from an `ACTORHUB_*` environment variable."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from actorhub.core.addressing import check_name


class Settings(BaseSettings):
    """What a hub, a node and the command line need to know of their cluster.

    Durations are seconds, sizes are bytes. Arguments win over the environment.
    """

    model_config = SettingsConfigDict(env_prefix="ACTORHUB_", env_ignore_empty=True, frozen=True, extra="ignore")

    url: str | None = Field(default=None, description="the broker: amqp://user:password@host:port/vhost")
    namespace: str = Field(default="default", description="where actors' names are looked up")
    prefix: str = Field(
        default="ah", description="the first word of every queue's name; one for each cluster on a broker"
    )
    secret: SecretStr | None = Field(
        default=None, description="signs pickled payloads; every process of a cluster has the same"
    )
    heartbeat: float = Field(default=1.0, gt=0, description="how often a node reports to control")
    node_timeout: float = Field(default=8.0, gt=0, description="a node silent for longer is lost")
    session_timeout: float = Field(
        default=30.0, gt=0, description="a session gone for longer ends, and its actors with it"
    )
    drain_timeout: float = Field(default=20.0, ge=0, description="how long a stopping worker waits for running calls")
    reply_expiry: float = Field(default=300.0, gt=0, description="an unused reply queue is deleted after this")
    connect_timeout: float = Field(default=10.0, gt=0, description="how long the first connection may take to succeed")
    recycle_tasks: int | None = Field(
        default=None, gt=0, description="tasks after which a slot's process is replaced by a new one"
    )
    recycle_memory: int | None = Field(
        default=None, gt=0, description="bytes of resident memory past which a slot's process is replaced"
    )
    slot_idle: float = Field(
        default=10.0,
        gt=0,
        description="seconds without work after which a slot ends whose queue's tasks ask for resources or a place",
    )
    store_capacity: int | None = Field(
        default=None, gt=0, description="bytes of memory for a node's objects; by default 30 % of the machine's"
    )
    store_spill_capacity: int | None = Field(
        default=None,
        ge=0,
        description="bytes of disk for objects that memory has no room for; by default 30 % of what is free",
    )
    inline_limit: int = Field(
        default=256 * 1024, ge=0, description="bytes up to which a task's result travels in the answer itself"
    )
    object_lease: float = Field(default=60.0, gt=0, description="an object that nobody refers to for longer is freed")
    objects_url: str | None = Field(
        default=None,
        description="where objects are kept beside their node, so that they outlive it: s3://bucket/folder",
    )
    journal_retention: int = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="bytes that the broker keeps of a durable actor's journal",
    )
    passivate_after: float = Field(
        default=60.0,
        gt=0,
        description="seconds after which an instance of a keyed class that nobody calls leaves memory",
    )
    ack_lag: float = Field(
        default=0.0,
        ge=0,
        description="seconds for which a durable actor's inbox keeps what is done, so that the broker has it on its disk",
    )
    max_pending: int = Field(default=100_000, gt=0, description="answers that a hub may wait for at once")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("namespace", "prefix")
    @classmethod
    def _usable_in_a_name(cls, value: str) -> str:
        return check_name("the namespace or prefix", value)

    def to_environment(self) -> dict[str, str]:
        """These settings as environment variables for a child process; the secret is in them."""
        values = {name: value for name, value in self if value is not None}
        plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for k, v in values.items()}
        return {f"ACTORHUB_{name.upper()}": value for name, value in plain.items()}
