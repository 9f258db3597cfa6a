"""Several models behind one address: who answers, who sleeps, who comes and goes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from scripted_fleet import CHUNK, ScriptedFleet
from serving import eventually, post_and_keep, running

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def fleet() -> ScriptedFleet:
    return ScriptedFleet.of("alpha", "org/beta")


@pytest.fixture
def http(fleet: ScriptedFleet) -> Iterator[httpx.Client]:
    with running(fleet) as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.fixture
def client(http: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{http.base_url}/v1", api_key="none", max_retries=0,
        _strict_response_validation=True,
    ) as client:  # fmt: skip
        yield client


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    return response.status_code, body["code"], body["param"]


def test_the_model_of_a_request_answers_it(client: openai.OpenAI) -> None:
    for name in ("alpha", "org/beta"):
        text = client.completions.create(model=name, prompt="x", max_tokens=len(name))
        assert (text.model, text.choices[0].text) == (name, name)
        chat = client.chat.completions.create(model=name, messages=HELLO, max_tokens=len(name))
        assert (chat.model, chat.choices[0].message.content) == (name, name)
        chunks = client.chat.completions.create(
            model=name, messages=HELLO, max_tokens=len(name), stream=True
        )
        said = [(chunk.model, chunk.choices[0].delta.content or "") for chunk in chunks]
        assert {model for model, _ in said} == {name}
        assert "".join(text for _, text in said) == name


def test_the_first_answers_where_none_is_named(http: httpx.Client) -> None:
    answer = http.post(TEXT, json={"prompt": "x", "max_tokens": 5}).json()
    assert (answer["model"], answer["choices"][0]["text"]) == ("alpha", "alpha")


def test_tokens_are_those_of_the_model_asked(http: httpx.Client, fleet: ScriptedFleet) -> None:
    fleet.members["org/beta"].llm.max_model_len = 99
    answer = http.post("/tokenize", json={"model": "org/beta", "prompt": "ab"}).json()
    assert (answer["count"], answer["max_model_len"]) == (2, 99)
    unknown = {"model": "gamma", "tokens": [1]}
    assert error(http.post("/detokenize", json=unknown)) == (404, "model_not_found", "model")


def test_an_unknown_model_is_a_404_that_lists_the_known(http: httpx.Client) -> None:
    response = http.post(CHAT, json={"model": "gamma", "messages": HELLO})
    assert error(response) == (404, "model_not_found", "model")
    assert "alpha, org/beta" in response.json()["error"]["message"]
    assert error(http.get("/v1/models/gamma")) == (404, "model_not_found", "model")
    for order in ("unload", "sleep", "wake"):
        assert error(http.post(f"/v1/models/no/such/{order}"))[:2] == (404, "model_not_found")


def test_models_are_listed_with_their_state(
    client: openai.OpenAI, http: httpx.Client, fleet: ScriptedFleet
) -> None:
    fleet.unready = "gamma"
    listed = client.models.list().data
    assert [model.id for model in listed] == ["alpha", "org/beta", "gamma"]
    first, _, third = (model.to_dict() for model in listed)
    assert (first["state"], first["max_model_len"], first["root"]) == (
        "awake",
        512,
        "/models/alpha",
    )
    assert (first["created"], first["bytes"]) == (1, {"weights": 10 * CHUNK, "kv": 0})
    assert (third["state"], third["max_model_len"]) == ("loading", None)
    assert client.models.retrieve("org/beta").id == "org/beta"
    response = http.post(TEXT, json={"model": "gamma", "prompt": "x"})
    assert error(response)[:2] == (503, "model_loading")
    assert int(response.headers["retry-after"]) >= 1


def test_a_model_sleeps_and_wakes_when_told(http: httpx.Client, fleet: ScriptedFleet) -> None:
    card = http.post("/v1/models/org/beta/sleep").json()
    assert (card["id"], card["state"], card["bytes"]["weights"]) == ("org/beta", "asleep", 0)
    card = http.post("/v1/models/org/beta/wake").json()
    assert (card["state"], card["last_wake_seconds"]) == ("awake", 0.0125)
    fleet.broken = "alpha"
    response = http.post("/v1/models/alpha/wake")
    assert error(response)[:2] == (503, "wake_failed")
    assert "its file is gone" in response.json()["error"]["message"]


def test_a_busy_model_does_not_sleep(http: httpx.Client, fleet: ScriptedFleet) -> None:
    llm = fleet.members["alpha"].llm
    llm.step, llm.max_model_len = 0.02, 1 << 20
    body = json.dumps({"prompt": "x", "max_tokens": 10**5}).encode()
    with post_and_keep(str(http.base_url), TEXT, body):
        eventually(lambda: llm.running)
        response = http.post("/v1/models/alpha/sleep")
        assert error(response)[:2] == (409, "model_busy")
        assert "1 requests" in response.json()["error"]["message"]
        assert http.post("/v1/models/org/beta/sleep").status_code == 200


def test_a_model_comes_and_goes(http: httpx.Client, fleet: ScriptedFleet) -> None:
    order = {"model": "/disk/gamma", "max_model_len": 64, "ttft_slo": "500ms", "floor": "1MiB"}
    card = http.post("/v1/models/team/gamma/load", json=order).json()
    assert (card["id"], card["state"]) == ("team/gamma", "awake")
    [(_, model, options)] = fleet.orders
    assert (model, options.pop("served_model_name")) == (order.pop("model"), "team/gamma")
    assert options == order
    answer = http.post(TEXT, json={"model": "team/gamma", "prompt": "x", "max_tokens": 1})
    assert answer.json()["model"] == "team/gamma"
    assert http.post("/v1/models/team/gamma/unload").status_code == 204
    assert error(http.post(TEXT, json={"model": "team/gamma", "prompt": "x"}))[0] == 404
    assert http.post("/v1/models/hub/delta/load").json()["id"] == "hub/delta"
    assert fleet.orders[-1] == ("load", "hub/delta", {"served_model_name": "hub/delta"})


def test_a_model_that_cannot_come_in_says_why(http: httpx.Client) -> None:
    assert error(http.post("/v1/models/alpha/load")) == (409, "model_busy", "model")
    missing = http.post("/v1/models/x/load", json={"model": "missing"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
    large = http.post("/v1/models/x/load", json={"max_model_len": 9999})
    assert (large.status_code, "12 MiB" in large.json()["error"]["message"]) == (400, True)
    wrong = http.post("/v1/models/x/load", json={"memory": "1GiB"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "memory")


def test_when_all_have_left_nothing_is_served(http: httpx.Client) -> None:
    for name in ("alpha", "org/beta"):
        assert http.post(f"/v1/models/{name}/unload").status_code == 204
    response = http.post(TEXT, json={"prompt": "x"})
    assert error(response) == (404, "model_not_found", "model")
    assert http.get("/v1/models").json()["data"] == []
    assert http.get("/health").status_code == 200
    assert http.get("/metrics").status_code == 200


def test_the_memory_is_reported_and_changed(http: httpx.Client, fleet: ScriptedFleet) -> None:
    report = http.get("/admin/memory").json()
    assert report["budget"] == report["free"] + sum(report["owners"].values()) == 100 * CHUNK
    assert report["physical"] == 20 * CHUNK
    assert report["owners"] == {"alpha/weights": 10 * CHUNK, "org/beta/weights": 10 * CHUNK}
    assert report["models"]["alpha"] == {"weights": 10 * CHUNK, "kv": 0}
    for memory in ("4MiB", 4 << 20):
        assert http.post("/admin/memory", json={"memory": memory}).json()["budget"] == 4 << 20
    assert fleet.total == 64


@pytest.mark.parametrize(
    ("memory", "said"),
    [("64KiB", "1310720 bytes"), ("lots", "4GiB"), (-5, "-5"), (1.5, "memory"), (None, "memory")],
)
def test_a_budget_that_cannot_be_is_a_400(http: httpx.Client, memory: object, said: str) -> None:
    response = http.post("/admin/memory", json={"memory": memory})
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
    assert response.json()["error"]["param"].startswith("memory")


def test_orders_need_the_key() -> None:
    with running(ScriptedFleet.of("alpha"), api_key="secret") as url:
        for path in ("load", "unload", "sleep", "wake"):
            assert httpx.post(f"{url}/v1/models/alpha/{path}").status_code == 401
        assert httpx.post(f"{url}/admin/memory", json={"memory": "1GiB"}).status_code == 401
        assert httpx.get(f"{url}/admin/memory").status_code == 401


def test_health_covers_every_model(http: httpx.Client, fleet: ScriptedFleet) -> None:
    fleet.unready = "gamma"
    assert http.get("/health").status_code == 200
    fleet.members["org/beta"].llm.dead = True
    assert error(http.get("/health"))[:2] == (503, "engine_dead")


def test_other_names_are_the_first_models() -> None:
    fleet = ScriptedFleet.of("alpha", "beta")
    with running(fleet, served_model_names=("one", "two")) as url:
        listed = httpx.get(url + "/v1/models").json()["data"]
        assert [card["id"] for card in listed] == ["one", "two", "beta"]
        assert [card["root"] for card in listed][:2] == ["/models/alpha"] * 2
        for name, code in (("one", 200), ("two", 200), ("beta", 200), ("alpha", 404)):
            body = {"model": name, "prompt": "x", "max_tokens": 1}
            assert httpx.post(url + TEXT, json=body).status_code == code
        assert httpx.post(url + "/v1/models/two/sleep").json()["state"] == "asleep"
        assert httpx.post(url + "/v1/models/alpha/sleep").status_code == 404
        assert httpx.post(url + TEXT, json={"prompt": "x"}).json()["model"] == "one"


def test_a_sole_model_takes_no_orders() -> None:
    from scripted import ScriptedLLM

    with running(ScriptedLLM()) as url:
        for order in ("x/load", "scripted/unload", "scripted/sleep", "scripted/wake"):
            response = httpx.post(f"{url}/v1/models/{order}")
            assert (response.status_code, "ellm serve" in response.text) == (400, True)
        assert httpx.post(url + "/admin/memory", json={"memory": "1GiB"}).status_code == 400
        assert httpx.get(url + "/admin/memory").json()["budget"] == 100 * CHUNK
        assert httpx.get(url + "/v1/models").json()["data"][0]["state"] == "awake"
