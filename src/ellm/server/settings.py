"""Where the server listens, whom it lets in and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass, field

from ellm.core.errors import ConfigError
from ellm.core.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Names as vLLM's flags where one exists; times are seconds, sizes are bytes.

    `port` 0 takes a free one.  `uds` listens on that path instead of host and port.  `api_key` None
    lets everyone in.  `served_model_names` are what the first model is called in place of its own
    name; the first of them is what answers carry when the request names none.  `shutdown_timeout`
    is how long a stopping server waits for running requests, `health_timeout` how long a step may
    take before the engine counts as hung.  `trust_request_chat_template` lets a request bring its
    own template.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    api_key: str | None = field(default=None, repr=False)
    served_model_names: tuple[str, ...] = ()
    shutdown_timeout: float = 30.0
    health_timeout: float = 10.0
    allowed_origins: tuple[str, ...] = ()
    root_path: str = ""
    enable_log_requests: bool = False
    trust_request_chat_template: bool = False
    max_body_bytes: int = 8 * MIB

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be from 0 to 65535, not {self.port}")
        if self.shutdown_timeout < 0:
            raise ConfigError(f"--shutdown-timeout must not be negative: {self.shutdown_timeout}")
        if self.api_key is not None and not self.api_key:
            raise ConfigError("--api-key is empty: give a key, or leave the flag out")
