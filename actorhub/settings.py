"""Settings of a cluster, from arguments and `ACTORHUB_*` environment variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from actorhub.core.addressing import check_name


class Settings(BaseSettings):
    """Settings of a hub, a node or a command. Arguments take precedence over environment variables.

    Durations are seconds, sizes are bytes.
    """

    model_config = SettingsConfigDict(env_prefix="ACTORHUB_", env_ignore_empty=True, frozen=True, extra="ignore")

    url: str | None = Field(default=None, description="the broker: amqp://user:password@host:port/vhost")
    namespace: str = Field(default="default", description="namespace in which names are looked up")
    prefix: str = Field(
        default="ah", description="first word of every queue name; a different one for each cluster on a broker"
    )
    secret: SecretStr | None = Field(
        default=None, description="signs pickled payloads; the same in all processes of a cluster"
    )
    heartbeat: float = Field(default=1.0, gt=0, description="interval between the reports of a node")
    node_timeout: float = Field(default=8.0, gt=0, description="a node that is silent for longer counts as lost")
    session_timeout: float = Field(
        default=30.0, gt=0, description="a client that is gone for longer counts as ended, and its actors end with it"
    )
    drain_timeout: float = Field(default=20.0, ge=0, description="time for running calls to finish when a worker stops")
    reply_expiry: float = Field(default=300.0, gt=0, description="an unused reply queue is deleted after this")
    connect_timeout: float = Field(default=10.0, gt=0, description="time for the first connection to succeed")
    recycle_tasks: int | None = Field(
        default=None, gt=0, description="number of tasks after which a slot's process is replaced"
    )
    recycle_memory: int | None = Field(
        default=None, gt=0, description="resident memory past which a slot's process is replaced"
    )
    slot_idle: float = Field(
        default=10.0,
        gt=0,
        description="time without a task after which a dedicated slot, for tasks with resources or a placement, ends",
    )
    store_capacity: int | None = Field(
        default=None, gt=0, description="memory for a node's objects; by default 30 % of the machine's"
    )
    store_spill_capacity: int | None = Field(
        default=None,
        ge=0,
        description="disk space for objects that do not fit into memory; by default 30 % of the free space",
    )
    inline_limit: int = Field(
        default=256 * 1024, ge=0, description="largest task result that travels in the reply itself"
    )
    object_lease: float = Field(
        default=60.0, gt=0, description="an object is freed when no process has referred to it for longer"
    )
    objects_url: str | None = Field(
        default=None,
        description="where objects are also stored outside their node, so that they outlive it: s3://bucket/folder",
    )
    journal_retention: int = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="bytes of a durable actor's journal that the broker keeps",
    )
    passivate_after: float = Field(
        default=60.0,
        gt=0,
        description="time without a call after which an instance of a keyed class leaves memory",
    )
    ack_lag: float = Field(
        default=0.0,
        ge=0,
        description="how much longer than needed a durable actor's inbox keeps handled messages",
    )
    max_pending: int = Field(default=100_000, gt=0, description="replies that a hub may wait for at once")
    log_format: Literal["text", "json"] = Field(default="text", description="text, or one JSON object per line")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least level that is logged"
    )

    @field_validator("namespace", "prefix")
    @classmethod
    def _usable_in_a_name(cls, value: str) -> str:
        return check_name("the namespace or prefix", value)

    def to_environment(self) -> dict[str, str]:
        """The settings as environment variables for a child process, the secret included."""
        values = {name: value for name, value in self if value is not None}
        plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for k, v in values.items()}
        return {f"ACTORHUB_{name.upper()}": value for name, value in plain.items()}
