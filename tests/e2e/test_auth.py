"""The key guards every route but `/health`."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from scripted import ScriptedLLM
from serving import running

from ellm.server.settings import ServerSettings

KEY = "sk-näive-key"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(ScriptedLLM(), api_key=KEY, allowed_origins=("https://here.example",)) as url:
        yield url


ROUTES = [
    "/", "/v1/models", "/v1/models/scripted", "/version", "/ping", "/load", "/metrics",
    "/openapi.json", "/nowhere", "/v1/chat/completions", "/v1/completions", "/tokenize",
    "/detokenize", "/health/", "/v1/health",
]  # fmt: skip


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as http:
        yield http


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", ROUTES)
def test_without_a_key(http: httpx.Client, path: str, method: str) -> None:
    response = http.request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer wrong", "Basic sk", "sk", "Bearer sk-naive-key", ""]
)
def test_with_a_wrong_key(http: httpx.Client, header: str) -> None:
    response = http.get("/v1/models", headers={"authorization": header})
    assert response.status_code == 401
    assert KEY not in response.text


def test_health_is_open(url: str) -> None:
    assert httpx.get(url + "/health").status_code == 200


def test_behind_a_proxy_that_cuts_a_prefix() -> None:
    with running(ScriptedLLM(), api_key=KEY, root_path="/api") as url:
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/v1/models").status_code == 401
        headers = [(b"authorization", f"Bearer {KEY}".encode())]
        assert httpx.get(url + "/v1/models", headers=headers).status_code == 200
        schema = httpx.get(url + "/openapi.json", headers=headers).json()
        assert schema["servers"] == [{"url": "/api"}]


def test_with_the_key(url: str) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = [(b"authorization", f"{scheme} {KEY}".encode())]
        assert httpx.get(url + "/v1/models", headers=headers).status_code == 200


def test_the_openai_client_says_why(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError, match="key is wrong"),
    ):
        client.models.list()


def test_a_browser_may_ask_first(url: str) -> None:
    headers = {"origin": "https://here.example", "access-control-request-method": "POST"}
    allowed = httpx.options(url + "/v1/chat/completions", headers=headers)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://here.example"
    strange = httpx.options(
        url + "/v1/chat/completions", headers=headers | {"origin": "https://there.example"}
    )
    assert "access-control-allow-origin" not in strange.headers


def test_the_key_is_not_printed() -> None:
    assert KEY not in repr(ServerSettings(api_key=KEY))
