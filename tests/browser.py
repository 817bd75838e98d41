"""A headless Chromium, told over its own protocol: pages that draw by websockets need waiting."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def screenshot(url: str, ready: str, folder: Path, size: tuple[int, int] = (1200, 900)) -> bytes:
    """Open a page, wait until an expression of JavaScript is true, return a PNG of it."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'browser'}", "--window-size={},{}".format(*size), url,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _port(folder / "browser" / "DevToolsActivePort")
            return asyncio.run(_drawn(_page(port), ready))
        finally:
            process.terminate()


def _port(file: Path) -> int:
    for _ in range(200):
        if file.exists() and file.read_text().strip():
            return int(file.read_text().split()[0])
        time.sleep(0.1)
    raise AssertionError("the browser does not start")


def _page(port: int) -> str:
    for _ in range(100):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        if pages:
            return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("the browser opens no page")


async def _drawn(address: str, ready: str) -> bytes:
    connection = await websocket_connect(address, max_message_size=1 << 28)

    async def ask(number: int, method: str, **parameters: Any) -> Any:
        message = {"id": number, "method": method, "params": parameters}
        await connection.write_message(json.dumps(message))
        while True:
            answer = json.loads(await connection.read_message())
            if answer.get("id") == number:
                return answer["result"]

    for number in range(200):
        found = await ask(number, "Runtime.evaluate", expression=ready, returnByValue=True)
        if found["result"].get("value") is True:
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError(f"never true: {ready}")
    # What is there is drawn a moment later.
    await asyncio.sleep(1)
    picture = await ask(1000, "Page.captureScreenshot", format="png")
    connection.close()
    return base64.b64decode(picture["data"])
