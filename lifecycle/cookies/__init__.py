"""Cookies: what one is, the dialects they are written in, and the cookie file of a session.

    model      one cookie, from and to Playwright, CDP, Notte and browser extensions
    document   a cookie file as a document that keeps what it does not own
    formats    which format a file has; jsonfile and netscape read and write them
    jar        read at the start, merged three ways and saved at the end
    atomic     files that are whole at every moment

Rule: the value of a cookie is in no repr, message or record. Nothing here talks to a browser.
"""

from lifecycle.cookies.document import CookieFormat
from lifecycle.cookies.jar import LoadedCookies, SavedCookies, read_cookie_file, rescue_cookies, save_cookie_file
from lifecycle.cookies.model import (
    Cookie,
    CookieDict,
    CookieKey,
    SameSite,
    from_cdp,
    parse_cookie,
    parse_cookies,
    sendable,
    to_cdp,
    to_playwright,
)

__all__ = [
    "Cookie",
    "CookieDict",
    "CookieFormat",
    "CookieKey",
    "LoadedCookies",
    "SameSite",
    "SavedCookies",
    "from_cdp",
    "parse_cookie",
    "parse_cookies",
    "read_cookie_file",
    "rescue_cookies",
    "save_cookie_file",
    "sendable",
    "to_cdp",
    "to_playwright",
]
