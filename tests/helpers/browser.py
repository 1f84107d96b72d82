"""A JupyterLab on loopback and a browser in front of it, for what only a page can show."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from needs import chromium_program
from playwright.sync_api import Browser, Page, sync_playwright
from shared import wait_until

ROOT = Path(__file__).parents[2]
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
_CONNECTED = """async () => {
    const app = window.jupyterapp; await app.restored;
    while (!(app.shell.currentWidget && app.shell.currentWidget.sessionContext)) await new Promise(r => setTimeout(r, 100));
    const panel = app.shell.currentWidget;
    await panel.context.ready; await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
}"""

_REPLACED = """async (name) => {
    const app = window.jupyterapp; const { currentWidget } = app.shell;
    await currentWidget.sessionContext.shutdown();
    currentWidget.dispose();
    await app.commands.execute("docmanager:open", { path: name });
}"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser without a window."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_program(), args=_FLAGS)
        yield browser
        browser.close()


class Lab:
    """JupyterLab in *folder*, and Notebook 7 of the same server."""

    def __init__(self, folder: Path, browser: Browser) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder, self._browser, self._token = folder, browser, secrets.token_hex(16)
        self._log = (folder / "lab.log").open("w")
        self._process = subprocess.Popen(
            self._command(),
            env=self._environment(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        wait_until(self._answers, timeout_s=90)

    def open(
        self,
        *cells: str,
        width: int = 1280,
        front: str = "lab/tree",
        page: Page | None = None,
    ) -> Page:
        """Open a notebook of *cells*, connected to a new kernel. It replaces that of *page*.

        *front* is the address of the frontend, for a new page.
        """
        name = f"{secrets.token_hex(4)}.ipynb"
        nbformat.write(notebook(*cells), self._folder / name)
        if page is None:
            page = self._browser.new_page(viewport={"width": width, "height": 1100})
            page.goto(f"http://127.0.0.1:{self._port}/{front}/{name}?reset&token={self._token}")
        else:
            page.evaluate(_REPLACED, name)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=90_000)
        page.evaluate(_CONNECTED)
        return page

    def close(self) -> None:
        """End the server and its kernels."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "lab.log").read_text()[-2000:]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return bool(
                direct.open(
                    f"http://127.0.0.1:{self._port}/api?token={self._token}", timeout=5
                ).read()
            )
        except OSError:
            return False

    def _command(self) -> list[str]:
        return [
            *(
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={self._port}",
            ),
            *(
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={self._token}",
                f"--ServerApp.root_dir={self._folder}",
            ),
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]

    def _environment(self) -> dict[str, str]:
        quiet = (
            self._folder
            / ".settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        )
        quiet.parent.mkdir(parents=True)
        quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
        own = {"CONFIG": ".jupyter", "DATA": ".data", "RUNTIME": ".run"}
        return {
            **os.environ,
            **{f"JUPYTER_{name}_DIR": str(self._folder / place) for name, place in own.items()},
            "JUPYTERLAB_SETTINGS_DIR": str(self._folder / ".settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self._folder / ".workspaces"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }


def notebook(*cells: str) -> Any:
    """Return a notebook of code *cells*, not run."""
    made = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
    )
    made.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    return made


def menu(page: Page, *path: str) -> None:
    """Choose an entry of the menu, as a person would."""
    page.get_by_role("menuitem", name=path[0], exact=True).click()
    page.get_by_role("menuitem", name=path[1]).first.click()
