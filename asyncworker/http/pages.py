"""How a list that comes in pages goes on: by link, by cursor, by number."""

from __future__ import annotations

import hashlib
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import msgspec

from asyncworker.errors import HTTPPageError
from asyncworker.http.shown import shown
from asyncworker.redaction import redacted

__all__ = ["MAX_PAGES", "Cursor", "Links", "Numbers", "Page", "Paging", "Trail", "begin", "follow"]

#: A link and its parameters, and one of these; commas and semicolons are separators outside of <> and quotes only.
_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[^\s;,="]+\s*(?:=\s*(?:"(?:\\.|[^"\\])*"|[^\s;,"]*))?)*)')
_PARAMETER = re.compile(r';\s*([^\s;,="]+)\s*(?:=\s*(?:"((?:\\.|[^"\\])*)"|([^\s;,"]*)))?')

#: Of one list, unless the caller says otherwise.
MAX_PAGES = 100_000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        number: 1 for the first.
        items: What it holds.
        content: The whole of its JSON.
        response: The answer.
        repeats: Whether its items are those of an earlier page.
    """

    number: int
    items: list[Any]
    content: Any
    response: httpx.Response
    repeats: bool = False

    @property
    def url(self) -> httpx.URL:
        """Where it came from."""
        return self.response.url

    @classmethod
    def of(cls, response: httpx.Response, items: str | None, trail: Trail) -> Page:
        """Read a page from an answer; ``items`` says where in it its items are.

        Raises:
            HTTPPageError: It is not JSON, or has no list there.
        """
        number = trail.enter(response)
        try:
            content = msgspec.json.decode(response.content.removeprefix(BOM_UTF8))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:  # the last: nested too deep
            raise _wrong(response, f"page {number} is not JSON: {exc}") from None
        found = content if items is None else _field(content, items)
        if not isinstance(found, list):
            there = f"it has {', '.join(map(repr, content))}" if isinstance(content, dict) else "it is no object"
            where = "it should be a list; name the field of it that is" if items is None else f"no list in {items!r}"
            raise _wrong(response, f"page {number}: {where}; {there}")
        return cls(number, found, content, response, trail.repeats(found))


class Trail:
    """The pages of one list that were read: what leads back to one of them would go on for ever.

    Args:
        max_pages: At most.
    """

    def __init__(self, max_pages: int) -> None:
        self.max_pages = max_pages
        self._urls: dict[int, int] = {}  # hash of the URL to the number of its page
        self._items: set[bytes] = set()
        self._number = 0

    def enter(self, response: httpx.Response) -> int:
        """Note a page, and where it was asked for; returns its number."""
        self._number += 1
        for each in (*response.history, response):
            self._urls.setdefault(hash(str(each.url)), self._number)
        return self._number

    def number_of(self, url: httpx.URL) -> int | None:
        """Return the number of the page that came from there; ``None``: none did."""
        return self._urls.get(hash(str(url)))

    def repeats(self, items: list[Any]) -> bool:
        """Tell whether an earlier page had the same items; a page without items repeats none."""
        digest = hashlib.blake2b(msgspec.json.encode(items), digest_size=16).digest()
        known = digest in self._items
        self._items.add(digest)
        return known and bool(items)


class Paging(Protocol):
    """A way in which lists go on."""

    def first(self, url: httpx.URL) -> httpx.URL:
        """Return the URL of the first page."""

    def next(self, page: Page) -> httpx.URL | str | None:
        """Return the URL of the page after that one, relative or whole; ``None``: it was the last."""


@dataclass(frozen=True, slots=True)
class Links:
    """By the ``Link`` header's ``rel="next"`` (RFC 8288), in any spelling; ends where there is none."""

    def first(self, url: httpx.URL) -> httpx.URL:
        """Return the URL as it is."""
        return url

    def next(self, page: Page) -> str | None:
        """Return the link."""
        for header in page.response.headers.get_list("Link"):
            for link in _LINK.finditer(header):
                # The first "rel" of a link counts; it may name several relations.
                said = next((each for each in _PARAMETER.finditer(link[2]) if each[1].lower() == "rel"), None)
                if said is not None and "next" in (said[2] or said[3] or "").lower().split():
                    return link[1].strip()
        return None


@dataclass(frozen=True, slots=True)
class Cursor:
    """By a field of each page; ends where it is missing, null or empty.

    Attributes:
        field: Where it is in the page's JSON, as ``meta.next``.
        param: The query parameter that carries it; ``None``: the field is the next page's URL.
    """

    field: str
    param: str | None = None

    def first(self, url: httpx.URL) -> httpx.URL:
        """Return the URL as it is."""
        return url

    def next(self, page: Page) -> httpx.URL | str | None:
        """Return the URL that the field says."""
        value = _field(page.content, self.field)
        if value is None or value == "":
            return None
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise _wrong(page.response, f"page {page.number}: {self.field!r} is {value!r:.100}, not a cursor")
        return str(value) if self.param is None else page.url.copy_set_param(self.param, str(value))


class Numbers:
    """By a number in the query: of the page, or of the first item with ``step``. Ends with a page without items.

    Args:
        param: The query parameter.
        first: The first page's number.
        step: What is added for each page.
    """

    def __init__(self, param: str = "page", *, first: int = 1, step: int = 1) -> None:
        self.param = param
        self._first = first
        self._step = step

    def first(self, url: httpx.URL) -> httpx.URL:
        """Return the URL with the first number."""
        return url.copy_set_param(self.param, str(self._first))

    def next(self, page: Page) -> httpx.URL | None:
        """Return the URL with the next number."""
        if not page.items:
            return None
        if page.repeats:  # it would go on for ever
            raise _wrong(page.response, f"page {page.number} is an earlier one again: is {self.param!r} the parameter?")
        return page.url.copy_set_param(self.param, str(self._first + self._step * page.number))


def begin(how: Paging, url: str, params: Mapping[str, Any] | None) -> httpx.URL:
    """Return the URL of the first page.

    Raises:
        HTTPPageError: It is no URL.
    """
    try:
        return how.first(httpx.URL(url).copy_merge_params(dict(params or {})))
    except httpx.InvalidURL as exc:
        raise HTTPPageError(f"{redacted(url)!r} is not a URL: {exc}") from None


def follow(how: Paging, page: Page, trail: Trail) -> httpx.URL | None:
    """Return the URL of the page after that one; ``None``: there is none.

    Raises:
        HTTPPageError: It would be one that was read, one too many, or on another server, which is not to get this one's
            log-in.
    """
    found = how.next(page)
    if found is None:
        return None
    try:
        url = page.url.join(found)
    except httpx.InvalidURL as exc:
        raise _wrong(page.response, f"page {page.number} leads to {str(found)!r:.100}: {exc}") from None
    if url == page.url:
        raise _wrong(page.response, f"page {page.number} says that it is followed by itself")
    if (url.scheme, url.netloc) != (page.url.scheme, page.url.netloc):
        raise _wrong(page.response, f"page {page.number} leads to another server, {shown(url)}")
    earlier = trail.number_of(url)
    if earlier is not None:
        raise _wrong(page.response, f"page {page.number} leads back to page {earlier}, {shown(url)}")
    if page.number >= trail.max_pages:
        raise _wrong(page.response, f"the list goes on after page {page.number:,}, the last that max_pages= allows")
    return url


def _field(content: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(content, dict):
            return None
        content = content.get(name)
    return content


def _wrong(response: httpx.Response, what: str) -> HTTPPageError:
    url = shown(response.url)
    return HTTPPageError(f"GET {url}: {what}", method="GET", url=url)
