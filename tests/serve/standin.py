"""A small HTTP server in vLLM's place, started by the real supervisor: it answers slowly, and says which weights it has.

``serve_instead_of_vllm(folder)`` gives a program to name as Python. Files in ``folder`` steer what is started from then on:
``broken``: it ends at once; ``slow``: it is healthy only when the file is gone; ``mute``: it is healthy, and dies of its first
request, as vLLM does of a model that its attention kernels do not know.
"""

import sys
from pathlib import Path

import psutil

_SERVER = """
import http.server, json, os, pathlib, sys, time
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
folder, name, weights = pathlib.Path(sys.argv[1]), option("--served-model-name"), pathlib.Path(option("--model"))
if (folder / "broken").exists():
    sys.exit("no such architecture")
while (folder / "slow").exists():
    time.sleep(0.02)
says = (weights / "says").read_text() if (weights / "says").exists() else "hello"
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        known = self.headers.get("authorization") == "Bearer " + os.environ["VLLM_API_KEY"]
        if self.path == "/health":
            return self.answer(200, {})
        return self.answer(200 if known else 401, {"data": [{"id": name}]})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if (folder / "mute").exists():
            os._exit(0)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not asked.get("stream"):
            choices = [{"index": 0, "message": {"role": "assistant", "content": says}, "finish_reason": "stop"}]
            return self.answer(200, {"choices": choices, "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number in range(int(asked["max_tokens"])):
            self.event({"choices": [{"index": 0, "delta": {"content": says + " "}, "finish_reason": None}]})
            time.sleep(0.05)
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\\n\\n")
        self.close_connection = True
    def event(self, body):
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\\n\\n")
        self.wfile.flush()
http.server.ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
"""


def serve_instead_of_vllm(folder: Path) -> str:
    """A program to run in the place of Python: the guard runs as it is, and instead of vLLM the server above."""
    (folder / "engine.py").write_text(_SERVER)
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nif [ "$1" = -I ]; then exec {sys.executable} "$@"; fi\n'
        f'exec {sys.executable} {folder}/engine.py {folder} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; none of one that has ended, reaped or not."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
