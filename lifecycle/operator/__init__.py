"""Operations on the pages of a browser behind the gateway: execute, observe, scrape.

Rule: it drives the browser through a CDP client that nobody else notices (see `lifecycle.gateway.own`), on the
supervisor's loop. One Playwright driver serves all sessions of the process; it starts with the first operation and
stops with the last session that had one. What goes wrong on a page is a result; what goes wrong with the browser is
an error.

Loading this module loads Playwright, so the engine does that on a worker, at the first operation.

    driver.py   the one Playwright driver
    tabs.py     the own client, its tabs, and the world in which pages are looked at
    actions.py  what each action does
    reading.py  observe and scrape
"""

from lifecycle.operator.actions import PageOperator
from lifecycle.operator.driver import Driver

__all__ = ["Driver", "PageOperator"]
