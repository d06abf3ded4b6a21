"""A webhook that is away loses nothing and stops nobody."""

import http.server
import json
import socket
import threading

from forge.reconcile.notify import Webhook


def test_changes_wait_while_the_webhook_is_away_and_come_in_order_with_the_next() -> None:
    heard: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.extend(change["resource"] for change in body["changes"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    webhook = Webhook(f"http://127.0.0.1:{port}/")
    assert webhook.deliver() is None
    webhook.add([{"resource": "Model/a"}])
    assert "could not be reached" in str(webhook.deliver())
    webhook.add([{"resource": "Model/b"}])
    assert "2 changes wait" in str(webhook.deliver())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        webhook.add([{"resource": "Model/c"}])
        assert webhook.deliver() is None
        assert webhook.deliver() is None
    finally:
        server.shutdown()
        server.server_close()
    assert heard == ["Model/a", "Model/b", "Model/c"]
