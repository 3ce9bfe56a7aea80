"""Page object for `/docs`: open an operation, fill in its parameters, execute it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from playwright.sync_api import ConsoleMessage, Locator, Page


class ShownResponse(NamedTuple):
    """The response that the page shows, and the headers of its request."""

    status: str
    body: str
    headers: str
    sent: dict[str, str]


class DocsPage:
    """The page of a service in a browser. It records the requests and errors of the page."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.requested: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)
        page.goto(f"{origin}/docs")
        page.locator(".opblock").first.wait_for()

    def _note(self, message: ConsoleMessage) -> None:
        """Record an error of the console. Responses with an error status are expected."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def operation(self, name: str) -> Locator:
        """Return the block of an operation."""
        return self.page.locator(f".opblock[id$='-{name}']")

    def open_operation(self, name: str) -> Locator:
        """Open the block of an operation with empty parameters."""
        block = self.operation(name)
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        return block

    def try_operation(
        self, name: str, fields: Mapping[str, str], body: str | None = None
    ) -> ShownResponse:
        """Execute an operation with only these parameters, and with this body."""
        block = self.open_operation(name)
        rows = block.locator("tr[data-param-name]")
        names = rows.evaluate_all("rows => rows.map(row => row.dataset.paramName)")
        assert set(fields) <= set(names), f"{name} has no input for {set(fields) - set(names)}"
        for parameter in names:
            self._fill(block, parameter, fields.get(parameter, ""))
        if body is not None:
            block.locator("textarea.body-param__text").fill(body)
        return self.execute(block)

    def execute(self, block: Locator) -> ShownResponse:
        """Execute an operation with its current parameters."""
        with self.page.expect_response(lambda _: True) as response:
            block.get_by_role("button", name="Execute").click()
        shown = block.locator(".live-responses-table tbody .response")
        shown.wait_for()
        texts = [text.strip() for text in shown.locator("pre").all_inner_texts()]
        *bodies, headers = texts
        status = shown.locator(".response-col_status").inner_text()
        return ShownResponse(
            status.split()[0],
            "".join(bodies),
            headers,
            {**response.value.request.all_headers(), "method": response.value.request.method},
        )

    def _fill(self, block: Locator, parameter: str, value: str) -> None:
        row = block.locator(f"tr[data-param-name='{parameter}']")
        choice = row.locator("select:not(.examples-select-element)")
        if choice.count():
            choice.select_option(value)
        else:
            row.locator("input[type=text]").fill(value)
