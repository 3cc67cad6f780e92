"""A page in a headless Chromium without a graphics card, and what a script on it tells."""

from __future__ import annotations

import http.server
import json
import queue
import subprocess
import tempfile
from threading import Thread
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,900 --remote-debugging-port=0"
)
TELL = """<script>
const frame = () => new Promise(requestAnimationFrame);
async function visit() {%s}
visit().catch((error) => ({ error: String(error) })).then(
  (told) => fetch("/told", { method: "POST", body: JSON.stringify(told) }));
</script></body>"""


def visited(page: str, script: str, wait: float) -> dict[str, Any]:
    """What `script`, the body of an asynchronous function with an `await frame()`, returns within `wait` seconds.

    Args:
        page: HTML, whose policy, if it has one, is `default-src 'none'`.

    Raises:
        queue.Empty: it has returned nothing by then.
    """
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    # The script is to report; the page by itself may reach nobody.
    page = page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';")
    page = page.replace("</body>", TELL % script)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory() as profile:
        Thread(target=server.serve_forever, daemon=True).start()
        command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return told.get(timeout=wait)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
