"""A page in headless Chromium, over DevTools' pipe: no package is needed, and nothing is fetched.

The fixtures `browser` and `page` are known to all tests; they skip where Chromium is absent.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from support import needs

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60  # for any one answer; two cores that others use may be slow
# A home of its own, so that nothing is found or left; no name outside this machine resolves.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}


CONTRAST = """(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => +v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (node) => {
    const own = getComputedStyle(node).backgroundColor;
    return /rgba|transparent|color/.test(own) ? paper(node.parentElement) : own;
  };
  return [...document.querySelectorAll("p, dt, dd, h1, h2, h3, td, th, a, li, label, button, span")]
    .filter((node) => node.textContent.trim() && node.getClientRects().length)
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(paper(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className + node.tagName];
    }).reduce((low, own) => own[0] < low[0] ? own : low);
})()"""
"""JavaScript: the lowest contrast of a page's text to its background, by WCAG, and its element."""


class Browser:
    """Chromium, and what it says."""

    def __init__(self, program, folder):
        """Starts it; `folder` is empty, and becomes its home."""
        down, up = os.pipe(), os.pipe()
        # Chromium reads its descriptor 3 and writes 4. Ours lie above, so neither is covered.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (down[0], up[1])]
        start = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        with (Path(folder) / "stderr.txt").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", start, "bash", program, *FLAGS, f"--user-data-dir={folder}/profile"],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(folder)},
            )
        for fd in (down[0], up[1], *theirs):
            os.close(fd)
        self._write, self._read = down[1], up[0]
        self._text, self._number, self.pages = b"", 0, {}

    def call(self, method, session=None, **parameters):
        """Calls a method of DevTools; returns its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + SECONDS
        while True:
            answer = self._next(end, method)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def pump(self, seconds):
        """Takes in what happens for some time."""
        end = time.monotonic() + seconds
        while b"\0" in self._text or self._ready(end):
            self._next(end + SECONDS, "waiting")

    def _ready(self, end):
        """Whether there is more to read before `end`."""
        return select.select([self._read], [], [], max(0, end - time.monotonic()))[0]

    def _next(self, end, what):
        """The next message; events go to their page."""
        while b"\0" not in self._text:
            assert self._ready(end), f"Chromium did not answer {what} in {SECONDS} seconds"
            data = os.read(self._read, 1 << 20)
            assert data, f"Chromium has ended during {what}"
            self._text += data
        line, self._text = self._text.split(b"\0", 1)
        message = json.loads(line)
        page = self.pages.get(message.get("sessionId"))
        if "method" in message and page is not None:
            page.take(message["method"], message["params"])
        return message

    def open_page(self):
        """A new page; it knows nothing of others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Page(self, attached["sessionId"], context)

    def close(self):
        """Ends it."""
        for fd in (self._write, self._read):
            os.close(fd)  # it ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """A tab. `errors` and `requests` are all since it was opened."""

    def __init__(self, browser, session, context):
        self._browser, self._session, self._context = browser, session, context
        self.errors = []  # what the console shows as error or warning, and exceptions
        self.requests = []  # addresses asked for, without data: and blob:
        self._loaded = False
        browser.pages[session] = self
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Calls a method of DevTools in this page."""
        return self._browser.call(method, self._session, **parameters)

    def take(self, method, event):
        """An event of DevTools."""
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(a.get("value", a)) for a in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = event["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                self.requests.append(url)

    def open(self, address):
        """Opens an address, or the file at a path, and waits until it is loaded."""
        address = str(address)
        url = address if "://" in address else Path(address).absolute().as_uri()
        self._loaded = False
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        end = time.monotonic() + SECONDS
        while not self._loaded:
            assert time.monotonic() < end, f"{url} is not loaded after {SECONDS} seconds"
            self._browser.pump(0.02)

    def evaluate(self, expression):
        """The value of an expression of JavaScript; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        details = answer.get("exceptionDetails")
        assert details is None, details
        return answer["result"].get("value")

    def wait_for(self, expression, seconds=SECONDS):
        """Waits until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"still false after {seconds} seconds: {expression}"
            self._browser.pump(0.05)
        return value

    def press(self, key, shift=False):
        """Presses a key of `KEYS`, or types a letter, where the focus is."""
        named = {"windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
        event = {"key": key, "modifiers": 8 * shift, **named}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width, height, phone=False):
        """Sets the window's size in CSS pixels; a phone's has touch and two dots a pixel."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1 + phone,
            mobile=phone,
        )

    def prefer(self, scheme):
        """Makes the page `dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def choose_files(self, selector, *paths):
        """Chooses files in an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        files = [str(Path(path).absolute()) for path in paths]
        self.call("DOM.setFileInputFiles", nodeId=node, files=files)

    def screenshot(self, path, whole=False):
        """Writes a PNG of what is seen, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(data["data"]))

    def overflow(self):
        """By how many pixels the page is wider than the window."""
        return self.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def close(self):
        """Closes it, and forgets its storage."""
        del self._browser.pages[self._session]
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, for the tests of a file."""
    program = needs.program(*NAMES)
    found = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture
def page(browser):
    """A new page for each test."""
    opened = browser.open_page()
    yield opened
    opened.close()
