"""`/docs` as a person uses it: open an operation, try it out, fill it in, execute it, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from playwright.sync_api import ConsoleMessage, Locator, Page


class Answer(NamedTuple):
    """What the page shows of a response, and what it had sent."""

    status: str
    body: str
    headers: str
    sent: dict[str, str]


class DocsPage:
    """The page in a browser, which writes down what it asks for and what fails in it."""

    def __init__(self, page: Page, origin: str) -> None:
        """Open the page on a service."""
        self.page = page
        self.requested: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._note)
        page.goto(f"{origin}/docs")
        page.locator(".opblock").first.wait_for()

    def _note(self, message: ConsoleMessage) -> None:
        """A response with an error status is an error there as well, and no fault of the page."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def operation(self, name: str) -> Locator:
        """The block of an operation."""
        return self.page.locator(f".opblock[id$='-{name}']")

    def opened(self, name: str) -> Locator:
        """The block of an operation, unfolded and ready to be filled in."""
        block = self.operation(name)
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        return block

    def tried(self, name: str, fields: Mapping[str, str], body: str | None = None) -> Answer:
        """Execute an operation with these parameters and no others, and with this body."""
        block = self.opened(name)
        rows = block.locator("tr[data-param-name]")
        names = rows.evaluate_all("rows => rows.map(row => row.dataset.paramName)")
        assert set(fields) <= set(names), f"{name} lets nobody fill in {set(fields) - set(names)}"
        for parameter in names:
            self._fill(block, parameter, fields.get(parameter, ""))
        if body is not None:
            block.locator("textarea.body-param__text").fill(body)
        return self.executed(block)

    def executed(self, block: Locator) -> Answer:
        """Execute an operation as it is filled in."""
        with self.page.expect_response(lambda _: True) as answered:
            block.get_by_role("button", name="Execute").click()
        shown = block.locator(".live-responses-table tbody .response")
        shown.wait_for()
        texts = [text.strip() for text in shown.locator("pre").all_inner_texts()]
        *bodies, headers = texts
        status = shown.locator(".response-col_status").inner_text()
        return Answer(
            status.split()[0],
            "".join(bodies),
            headers,
            {**answered.value.request.all_headers(), "method": answered.value.request.method},
        )

    def _fill(self, block: Locator, parameter: str, value: str) -> None:
        row = block.locator(f"tr[data-param-name='{parameter}']")
        choice = row.locator("select:not(.examples-select-element)")
        if choice.count():
            choice.select_option(value)
        else:
            row.locator("input[type=text]").fill(value)
