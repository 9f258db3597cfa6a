"""`ellm serve`: load models and answer HTTP until told to stop."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ellm.cli.engine_options import takes_engine_args
from ellm.cli.household import (
    Ceilings,
    Floors,
    Household,
    IdleRelease,
    Models,
    MoreModels,
    Names,
    name_models,
)
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


@takes_engine_args(without=("model", "served_model_name"))
def serve(
    args: EngineArgs,
    models: Models = None,
    more_models: MoreModels = None,
    served_model_name: Names = None,
    idle_release: IdleRelease = None,
    model_floor: Floors = None,
    model_ceiling: Ceilings = None,
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
    """Serve models over an OpenAI-compatible API."""
    from ellm.llm.progress import loading_bar
    from ellm.server.serve import bind
    from ellm.server.serve import serve as answer
    from ellm.server.settings import ServerSettings

    wanted = [*(models or ()), *(more_models or ())] or [args.model]
    household = Household.of(
        name_models(args, wanted, served_model_name or ()),
        idle_release,
        model_floor or (),
        model_ceiling or (),
    )
    settings = ServerSettings(
        host=host,
        port=port,
        uds=uds,
        api_key=api_key,
        served_model_names=tuple(served_model_name or ()) if len(wanted) == 1 else (),
        shutdown_timeout=shutdown_timeout,
        allowed_origins=parse_origins(allowed_origins or []),
        root_path=root_path,
        enable_log_requests=enable_log_requests,
        trust_request_chat_template=trust_request_chat_template,
    )
    listener = bind(settings)
    with listener:
        with loading_bar(f"loading {', '.join(household.names)}") as progress:
            fleet = household.open(progress)
        return answer(fleet, settings, listener)
