"""Crawls in a process of their own, at once: crawl.py SPIDER[,SPIDER] SITE SETTINGS.

It prints what happens as lines of JSON.
"""

from __future__ import annotations

import json
import sys

from scrapy import Request, Spider
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import CloseSpider
from scrapy_playwright.page import PageMethod

from lifecycle import SessionEnded

HANDLER = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"
SETTINGS = {
    "DOWNLOAD_HANDLERS": {"http": HANDLER},  # each starts a driver of its own
    "ADDONS": {"lifecycle.embed.scrapy.SessionAddon": 100},
    "COOKIES_ENABLED": False,  # those of the browser are the ones
    "LOG_LEVEL": "INFO",
    "REMOTE_CONTROL_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
}
NEVER = PageMethod("wait_for_selector", "#never", timeout=0)


def say(what, **more):
    print(json.dumps({"what": what, **more}), flush=True)


class Base(Spider):
    site = ""

    def page(self, path, *methods, callback=None, **meta):
        meta = {"playwright": True, "playwright_page_methods": list(methods), **meta}
        return Request(
            self.site + path, callback or self.parse, errback=self.failed, dont_filter=True, meta=meta,
        )  # fmt: skip

    def parse(self, response):
        say("page", url=response.url.removeprefix(self.site), who=response.css("#who ::text").getall())

    def failed(self, failure):
        say("failed", kind=failure.type.__name__, ended=bool(failure.check(SessionEnded)), text=str(failure.value))


class Normal(Base):
    """Looks at two pages."""

    name = "normal"

    async def start(self):
        yield self.page("/", PageMethod("evaluate", "navigator.userAgent"))

    def parse(self, response):
        say("page", title=response.css("h1::text").get(), agent=response.meta["playwright_page_methods"][0].result)
        yield self.page("/account", callback=super().parse)


class Login(Base):
    """Logs in."""

    name = "login"

    async def start(self):
        yield self.page(
            "/login", PageMethod("fill", "input", "ada"), PageMethod("click", "button"),
            PageMethod("wait_for_selector", "#user"),
        )  # fmt: skip


class Account(Base):
    """Looks who is logged in."""

    name = "account"

    async def start(self):
        yield self.page("/account")


class Raises(Base):
    name = "raises"

    async def start(self):
        yield self.page("/")

    def parse(self, response):
        say("raises")
        raise ValueError("of the spider's own")


class Crash(Base):
    """Looks at a page, at one under which the browser is killed, and at a third."""

    name = "crash"

    async def start(self):
        yield self.page("/", callback=self.first)

    def first(self, response):
        say("page", url="/")
        yield self.page("/wait", PageMethod("wait_for_selector", "#there", state="attached", timeout=0))

    def parse(self, response):
        yield from super().parse(response) or ()
        if response.url.endswith("/wait"):
            yield self.page("/account")


class Waits(Base):
    """Waits for what never comes, and closes once no page can come any more."""

    name = "waits"

    async def start(self):
        yield self.page("/", NEVER)

    def failed(self, failure):
        super().failed(failure)
        if failure.check(SessionEnded):
            raise CloseSpider("session_over")
        return [self.page("/account")]


class Endless(Base):
    """Looks at one page after another."""

    name = "endless"

    async def start(self):
        yield self.page("/account")

    def parse(self, response):
        super().parse(response)
        yield self.page("/account")


class Closes(Endless):
    """Has enough, with pages outstanding."""

    name = "closes"

    def parse(self, response):
        yield from super().parse(response)
        raise CloseSpider("enough")


if __name__ == "__main__":
    names, site, settings = sys.argv[1:]
    kinds = {k.name: k for k in (Normal, Login, Account, Raises, Crash, Waits, Endless, Closes)}
    process = AsyncCrawlerProcess({**SETTINGS, **json.loads(settings)})
    crawlers = [process.create_crawler(kinds[name]) for name in names.split(",")]
    for crawler in crawlers:
        process.crawl(crawler, site=site)
    process.start()
    for crawler in crawlers:
        found = crawler.stats.get_stats()
        say(
            "stats", spider=crawler.spidercls.name, reason=found.get("finish_reason"),
            browsers=found.get("playwright/browser_count", 0), raised=found.get("spider_exceptions/count", 0),
        )  # fmt: skip
