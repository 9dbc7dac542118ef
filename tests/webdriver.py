"""A real browser, headless, by the W3C WebDriver protocol: enough of it to click and to read."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--no-first-run", "--window-size=1200,1600",
)  # fmt: skip


def missing() -> str | None:
    """Why there is no browser to test with, or ``None``."""
    names = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    return f"{' and '.join(names)} not installed" if names else None


class Browser:
    """``with Browser(folder) as browser``: Chromium with a fresh profile in ``folder``."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--silent"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.base = f"http://127.0.0.1:{port}"
        flags = [*FLAGS, f"--user-data-dir={folder}"]
        options = {"args": flags, "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait_until_ready()
            body = {"capabilities": {"alwaysMatch": wanted}}
            self.base += f"/session/{self.call('POST', '/session', body)['sessionId']}"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_until_ready(self) -> None:
        for _ in range(200):
            try:
                if self.call("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                time.sleep(0.05)
        raise TimeoutError("chromedriver did not start within 10 s")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(timeout=10)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise AssertionError(f"{path}: {value['error']}: {value['message'][:400]}") from None

    def open(self, file: Path) -> None:
        self.call("POST", "/url", {"url": file.as_uri()})

    def find(self, selector: str) -> list[str]:
        found = self.call("POST", "/elements", {"using": "css selector", "value": selector})
        return [element[ELEMENT] for element in found]

    def click(self, selector: str) -> None:
        (element,) = self.find(selector)
        self.call("POST", f"/element/{element}/click")

    def text(self, selector: str) -> str:
        (element,) = self.find(selector)
        return str(self.call("GET", f"/element/{element}/text"))

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[Any]:
        """What the page wrote to the console: errors and refusals among it."""
        found: list[Any] = self.call("POST", "/se/log", {"type": "browser"})
        return found
