"""`ellm serve`: load a model and answer HTTP until told to stop."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ellm.cli.engine_options import takes_engine_args
from ellm.core.errors import ConfigError
from ellm.llm.args import EngineArgs

ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar=["ELLM_API_KEY", "VLLM_API_KEY"], help="Key clients send."),
]


def parse_origins(texts: list[str]) -> tuple[str, ...]:
    """Origins from repeated flags, or from one JSON list as vLLM takes it."""
    found: list[str] = []
    for text in texts:
        if not text.lstrip().startswith("["):
            found.append(text)
            continue
        try:
            found += [str(origin) for origin in json.loads(text)]
        except ValueError as error:
            raise ConfigError(f"--allowed-origins is no JSON list: {error}") from error
    return tuple(found)


@takes_engine_args(model_is_positional=True)
def serve(
    args: EngineArgs,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8000,
    uds: Annotated[str | None, typer.Option("--uds", help="Unix socket, instead.")] = None,
    api_key: ApiKey = None,
    shutdown_timeout: Annotated[
        float, typer.Option("--shutdown-timeout", help="Seconds for running requests to end.")
    ] = 30.0,
    allowed_origins: Annotated[
        list[str] | None, typer.Option("--allowed-origins", help="CORS origins; may be repeated.")
    ] = None,
    root_path: Annotated[str, typer.Option("--root-path", help="Prefix that a proxy cuts.")] = "",
    enable_log_requests: Annotated[
        bool, typer.Option("--enable-log-requests", help="One log line a request.")
    ] = False,
    trust_request_chat_template: Annotated[
        bool,
        typer.Option("--trust-request-chat-template", help="Requests may bring a chat template."),
    ] = False,
) -> int:
    """Serve a model over an OpenAI-compatible API."""
    from ellm import AsyncLLM
    from ellm.llm.progress import loading_bar
    from ellm.server.serve import bind
    from ellm.server.serve import serve as answer
    from ellm.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        uds=uds,
        api_key=api_key,
        shutdown_timeout=shutdown_timeout,
        allowed_origins=parse_origins(allowed_origins or []),
        root_path=root_path,
        enable_log_requests=enable_log_requests,
        trust_request_chat_template=trust_request_chat_template,
    )
    listener = bind(settings)
    with listener:
        with loading_bar(f"loading {args.model}") as progress:
            llm = AsyncLLM(args, progress=progress)
        return answer(llm, settings, listener)
