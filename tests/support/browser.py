"""A headless Chromium, driven over the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/. Messages go through two pipes instead of a
websocket (`--remote-debugging-pipe`): JSON objects, each with a null byte behind it.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, "")}


class Browser:
    """One browser process with a profile of its own; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reading, self._write = os.pipe()
        self._read, writing = os.pipe()
        # The browser reads file descriptor 3 and writes to 4, which neither pipe may have before.
        to_browser, from_browser = (
            fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reading, writing)
        )
        os.close(reading)
        os.close(writing)
        arrange = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        command = [
            PROGRAM, "--headless", "--remote-debugging-pipe", "--no-first-run",
            f"--user-data-dir={self._folder.name}", "--disable-gpu",
            "--disable-dev-shm-usage", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        ]  # fmt: skip
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # as root the sandbox does not start
        self._process = subprocess.Popen(
            ["bash", "-c", arrange, "bash", *map(str, command)],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._folder.name},
        )
        os.close(to_browser)
        os.close(from_browser)
        self._lock = threading.Lock()
        self._count = 0
        self._answers: dict[int, Any] = {}
        self._arrived = threading.Condition()
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        self._folder.cleanup()

    def _listen(self) -> None:
        with os.fdopen(self._read, "rb") as stream:
            held = b""
            while data := stream.read1(65536):
                *messages, held = (held + data).split(b"\0")
                for message in map(json.loads, messages):
                    with self._arrived:
                        if "id" in message:
                            self._answers[message["id"]] = message
                        else:
                            self.events.append(message)
                        self._arrived.notify_all()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        with self._lock:
            self._count += 1
            number = self._count
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            os.write(self._write, json.dumps(message).encode() + b"\0")
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._answers, timeout=60):
                raise TimeoutError(method)
            answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str, *, width: int = 1100, height: int = 800, dark: bool = False) -> "Page":
        """Open a page in a profile of its own, as another visitor would."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, session["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.color_scheme("dark" if dark else "light")
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int = 800) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def color_scheme(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def run(self, script: str) -> Any:
        """Return the value of an expression; an exception in it is raised here."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Wait until an expression is true and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script}\n{self.run('document.body.innerText')}")
            time.sleep(0.05)
        return value

    def type(self, text: str) -> None:
        """Type text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key: `Enter`, `Escape` or `Tab`."""
        code, text = _KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        place = f"document.querySelector({json.dumps(selector)})"
        x, y = self.run(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])({place}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what the page shows to a PNG file."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def problems(self) -> list[str]:
        """Return what the browser's console says: errors, and violations of the page's policy."""
        found = []
        for event in list(self._browser.events):
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
            if event["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"]["text"])
        return found
