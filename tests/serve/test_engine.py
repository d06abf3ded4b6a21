"""One real vLLM behind the real agent: answered, streamed, redacted, killed, restarted, stopped without orphans."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from forge.serve.release import ServableRelease
from forge.store.store import manifest_of_folder

ENGINE_KEY = "engine-secret-of-the-test"
PADDED = 320
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SERVE = """
import pickle, sys
from forge.serve.agent import serve
release, settings = pickle.load(open(sys.argv[1], "rb"))
serve(release, settings)
"""


@dataclass(frozen=True)
class Running:
    process: "subprocess.Popen[bytes]"
    folder: Path
    keys: dict[str, str]

    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / "status.json").read_text())

    def wait_for(self, state: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (status := self.status())["state"] != state:
            assert self.process.poll() is None, (self.folder / "stderr").read_text()
            assert time.monotonic() < deadline, f"{status}\n{(self.folder / 'stderr').read_text()}"
            time.sleep(0.1)
        return status

    def post(self, path: str, body: dict[str, Any], role: str = "READER") -> tuple[int, dict[str, str], bytes]:
        return post(f"http://127.0.0.1:{self.status()['port']}{path}", self.keys[f"KEY_{role}"], body)

    def engine(self) -> psutil.Process:
        (guard,) = psutil.Process(self.process.pid).children()
        (engine,) = guard.children()
        return engine


def post(url: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 0.1 M parameters over bytes, whose embedding is padded: a fifth of its rows are no tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(alphabet)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    assert len(fast) == len(alphabet) + 2 < PADDED
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=PADDED, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, model: Path, release: ServableRelease, api_keys: dict[str, str]
) -> Iterator[Running]:
    from forge.serve.agent import ServeSettings

    folder = tmp_path_factory.mktemp("agent")
    settings = ServeSettings(
        audit_folder=folder / "audit",
        status_file=folder / "status.json",
        log_folder=folder / "log",
        port=0,
        engine_key=ENGINE_KEY,
        engine_start_seconds=170,
        environment={**os.environ, **api_keys},
    )
    laid_out = replace(release, model_path=model, weights_digest=manifest_of_folder(model).digest)
    (folder / "input").write_bytes(pickle.dumps((laid_out, settings)))
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder / "input")], stderr=stderr)
    try:
        while not (folder / "status.json").exists():
            assert process.poll() is None, (folder / "stderr").read_text()
            time.sleep(0.05)
        yield Running(process, folder, api_keys)
    finally:
        process.terminate()
        process.wait(60)


# The tests of this module share one engine and stand in the order in which an agent lives.


def test_before_the_engine_is_healthy_the_gateway_answers_503(agent: Running) -> None:
    status, headers, body = agent.post("/v1/completions", {"model": "tiny", "prompt": "a"})
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert json.loads(body)["error"]["code"] == "engine_unavailable"
    assert agent.status()["state"] == "starting"


def test_chat_and_completion_are_answered_within_the_limit(agent: Running, release: ServableRelease) -> None:
    agent.wait_for("ready", 170)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
    for path, request in (("/v1/chat/completions", chat), ("/v1/completions", {"model": "tiny", "prompt": "Hello"})):
        status, headers, body = agent.post(path, request)
        answer = json.loads(body)
        assert status == 200, answer
        assert answer["usage"]["completion_tokens"] <= 32
        assert answer["model"] == "tiny"
        assert headers["x-forge-release"] == release.release_digest


def test_a_stream_says_the_same_as_a_whole_answer(agent: Running) -> None:
    request = {"model": "tiny", "prompt": "The", "temperature": 0, "seed": 1, "max_tokens": 24}
    whole = json.loads(agent.post("/v1/completions", request)[2])["choices"][0]
    stream = agent.post("/v1/completions", {**request, "stream": True, "stream_options": {"include_usage": True}})[2]
    *events, done = [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert chunks[-1]["usage"]["completion_tokens"] <= 24
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]


def test_what_is_sampled_of_the_padding_has_no_text(agent: Running) -> None:
    """Each of the rows that are no tokens is made far likelier than any token."""
    forced = {"logit_bias": {str(number): 100 for number in range(PADDED - 10, PADDED)}, "max_tokens": 6, "temperature": 0.5}
    request = {"model": "tiny", "prompt": "The", **forced}
    status, _, body = agent.post("/v1/completions", request, "EDITOR")
    answer = json.loads(body)
    assert status == 200, answer
    assert answer["choices"][0]["text"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6
    only = {**request, "structured_outputs": {"choice": ["yes"]}}
    assert json.loads(agent.post("/v1/completions", only, "EDITOR")[2])["choices"][0]["text"] == "yes"


def test_an_e_mail_that_the_model_is_forced_to_write_is_redacted(agent: Running) -> None:
    request = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Whom do I ask?"}],
        "structured_outputs": {"regex": "Ask [a-z]{3}@example\\.org!"},
        "temperature": 0,
    }
    engine = agent.engine()
    port = engine.cmdline()[engine.cmdline().index("--port") + 1]
    _, _, raw = post(f"http://127.0.0.1:{port}/v1/chat/completions", ENGINE_KEY, request)
    assert b"choices" in raw, raw
    written = json.loads(raw)["choices"][0]["message"]["content"]
    assert written.startswith("Ask ")
    assert written.endswith("@example.org!")

    status, headers, body = agent.post("/v1/chat/completions", request, "EDITOR")
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == "Ask [email]!"
    assert b"example.org" not in body
    (line,) = [line for line in audit_lines(agent) if line["request_id"] == headers["x-request-id"]]
    assert line["redactions"] == {"email": 1, "ipv4": 0}
    assert line["completion_tokens"] > 0


def test_a_prompt_that_is_too_long_for_the_model_is_a_400_of_our_own(agent: Running) -> None:
    secret = "xyzzy " * 45
    status, _, body = agent.post("/v1/completions", {"model": "tiny", "prompt": secret}, "EDITOR")
    assert status == 400
    assert json.loads(body)["error"]["code"] == "context_length_exceeded"
    assert b"xyzzy" not in body


def test_the_engine_knows_no_api_key_and_its_command_line_no_secret(agent: Running) -> None:
    engine = agent.engine()
    environment = engine.environ()
    assert environment["VLLM_API_KEY"] == ENGINE_KEY
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert not [name for name in environment if name.startswith("KEY_")]
    assert ENGINE_KEY not in " ".join(engine.cmdline())
    assert {c.laddr.ip for c in engine.net_connections("tcp") if c.status == "LISTEN"} == {"127.0.0.1"}


def test_no_prompt_stands_in_a_log(agent: Running) -> None:
    agent.post("/v1/completions", {"model": "tiny", "prompt": "plugh-plugh"})
    for file in (*(agent.folder / "log").iterdir(), *(agent.folder / "audit").iterdir(), agent.folder / "stderr"):
        assert b"plugh" not in file.read_bytes(), file


def test_a_killed_engine_gives_503_and_comes_back(agent: Running) -> None:
    port_before = agent.status()["port"]
    old = agent.engine()
    family = [old, *old.children(recursive=True)]
    old.kill()
    status = agent.wait_for("degraded", 15)
    assert "killed by SIGKILL" in status["reason"]
    assert agent.post("/v1/completions", {"model": "tiny", "prompt": "a"})[0] == 503
    assert are_gone(family, 10)
    status = agent.wait_for("ready", 170)
    assert (status["engine_restarts"], status["port"]) == (1, port_before)
    assert agent.post("/v1/completions", {"model": "tiny", "prompt": "a"})[0] == 200


def test_told_to_stop_the_agent_leaves_nothing_behind(agent: Running) -> None:
    family = psutil.Process(agent.process.pid).children(recursive=True)
    assert len(family) >= 3
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(30) == 0
    assert are_gone(family, 1)
    assert agent.status()["state"] == "stopped"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def are_gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether none of them runs any more; an orphan that the machine's first process has not reaped yet is gone too."""
    deadline = time.monotonic() + seconds
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def audit_lines(agent: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for file in (agent.folder / "audit").iterdir() for line in file.read_text().splitlines()]
