"""One cookie: the dialects it is read from, the forms it is written in, and that its value shows nowhere."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import COOKIE as SECRET

from lifecycle.cookies import Cookie, from_cdp, parse_cookie, parse_cookies, to_cdp, to_playwright

BASE = {"name": "sid", "value": SECRET, "domain": "example.com", "path": "/"}

CHROMIUM = {
    # As Chromium 156 answers Storage.getCookies.
    "name": "sid",
    "value": SECRET,
    "domain": ".example.com",
    "path": "/app",
    "expires": 1795506471.02576,
    "size": 2,
    "httpOnly": True,
    "secure": True,
    "session": False,
    "sameSite": "None",
    "priority": "Medium",
    "sourceScheme": "Secure",
    "sourcePort": 443,
    "partitionKey": {"topLevelSite": "https://top.com", "hasCrossSiteAncestor": True},
}


# --- the cookie itself --------------------------------------------------------------------------------------------


def test_value_is_in_no_repr():
    cookie = parse_cookie(BASE)
    assert SECRET not in repr(cookie)
    assert SECRET not in str(cookie)
    assert "sid" in repr(cookie)


def test_key_tells_partitions_apart():
    plain = parse_cookie(BASE)
    first = parse_cookie({**BASE, "partitionKey": {"topLevelSite": "https://a.com", "hasCrossSiteAncestor": True}})
    second = parse_cookie({**BASE, "partitionKey": {"topLevelSite": "https://a.com", "hasCrossSiteAncestor": False}})
    assert plain.key == ("sid", "example.com", "/", None, False)
    assert first.key == ("sid", "example.com", "/", "https://a.com", True)
    assert len({plain.key, first.key, second.key}) == 3


def test_expired_at_the_very_second_and_never_for_a_session_cookie():
    lasting = parse_cookie({**BASE, "expires": 100})
    assert [lasting.expired(at) for at in (99.9, 100, 101)] == [False, True, True]
    session = parse_cookie(BASE)
    assert session.session
    assert not lasting.session
    assert not session.expired(1e12)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expires"),
    [
        ({}, -1),
        ({"expires": -1}, -1),
        ({"expires": 0}, -1),
        ({"expirationDate": None, "expires": None}, -1),
        ({"expires": 1790000000}, 1790000000),
        ({"expirationDate": 1790000000.25}, 1790000000.25),
        ({"expirationDate": None, "expires": 1790000000}, 1790000000),
        ({"expirationDate": 0, "expires": 1790000000}, 1790000000),
        ({"expirationDate": 1790000000.5, "expires": 1790000001}, 1790000000.5),
        ({"expiry": 1790000000}, 1790000000),  # Selenium
        ({"expirationDate": 1790000000, "session": False}, 1790000000),
        ({"expirationDate": 1790000000, "session": True}, -1),
        ({"expires": 253402300799}, 253402300799),  # the end of 9999, which means never
        ({"expires": 999999999999}, 999999999999),
        ({"expires": 1790000000000}, 1790000000),  # milliseconds
        ({"expirationDate": 1790000000123.0}, 1790000000.123),
        ({"expires": 1790000000123456}, 1790000000.123456),  # microseconds
    ],
)
def test_expiry_in_every_dialect(fields, expires):
    assert parse_cookie({**BASE, **fields}).expires == pytest.approx(expires, abs=1e-7)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Strict", "Strict"),
        ("lax", "Lax"),
        ("NONE", "None"),
        ("no_restriction", "None"),
        ("No_Restriction", "None"),
        ("unspecified", None),
        ("", None),
        (None, None),
    ],
)
def test_same_site_in_every_dialect(given, read):
    assert parse_cookie({**BASE, "sameSite": given}).same_site == read


@pytest.mark.parametrize(
    ("fields", "partition"),
    [
        ({}, (None, False)),
        ({"partitionKey": None}, (None, False)),
        ({"partitionKey": ""}, (None, False)),
        ({"partitionKey": {}}, (None, False)),
        # Playwright
        ({"partitionKey": "https://top.com", "_crHasCrossSiteAncestor": True}, ("https://top.com", True)),
        ({"partitionKey": "https://top.com", "_crHasCrossSiteAncestor": False}, ("https://top.com", False)),
        # extensions and CDP
        (
            {"partitionKey": {"topLevelSite": "https://top.com", "hasCrossSiteAncestor": False}},
            ("https://top.com", False),
        ),
        # not given: another site's cookie is cross-site, the top-level site's own is not
        ({"partitionKey": "https://top.com"}, ("https://top.com", True)),
        ({"partitionKey": {"topLevelSite": "https://top.com/"}}, ("https://top.com", True)),
        ({"partitionKey": {"topLevelSite": "https://example.com"}}, ("https://example.com", False)),
        ({"partitionKey": "https://example.com:444", "domain": ".www.example.com"}, ("https://example.com:444", False)),
        ({"partitionKey": "https://example.com", "domain": "badexample.com"}, ("https://example.com", True)),
    ],
)
def test_partition_in_every_dialect(fields, partition):
    cookie = parse_cookie({**BASE, **fields})
    assert (cookie.partition_key, cookie.partition_cross_site) == partition


@pytest.mark.parametrize(
    ("fields", "domain"),
    [
        ({"domain": "example.com"}, "example.com"),
        ({"domain": ".example.com"}, ".example.com"),
        ({"domain": "example.com", "hostOnly": False}, ".example.com"),
        ({"domain": ".example.com", "hostOnly": True}, "example.com"),
        ({"domain": "example.com", "hostOnly": None}, "example.com"),
        # What Chromium 156 makes of each, so that a cookie is found again under its key.
        ({"domain": ".Example.COM"}, ".example.com"),
        ({"domain": ".127.0.0.1"}, "127.0.0.1"),
        ({"domain": "127.0.0.1", "hostOnly": False}, "127.0.0.1"),
        ({"domain": ".localhost"}, "localhost"),
        ({"domain": "[::1]"}, "[::1]"),
        ({"domain": "bücher.de"}, "xn--bcher-kva.de"),
        ({"domain": ".Bücher.de"}, ".xn--bcher-kva.de"),
        ({"domain": "faß.de"}, "xn--fa-hia.de"),
        # Playwright's url
        ({"domain": None, "url": "https://www.example.com/a/b"}, "www.example.com"),
        ({"domain": None, "url": "http://[::1]:8080/"}, "[::1]"),
    ],
)
def test_domain_in_every_dialect(fields, domain):
    assert parse_cookie({**BASE, **fields}).domain == domain


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, "/"),
        ("", "/"),
        ("/a/%41;b", "/a/%41;b"),
        ('/ "#<>?^`{|}', "/%20%22%23%3C%3E%3F%5E%60%7B%7C%7D"),
        ("/\t\x7fé☃", "/%09%7F%C3%A9%E2%98%83"),
        ("/a\\b", "/a/b"),
        ("/!$%&'()*+,-./:;=@[]_~", "/!$%&'()*+,-./:;=@[]_~"),
    ],
)
def test_path_is_what_chromium_makes_of_it(given, read):
    assert parse_cookie({**BASE, "path": given}).path == read


def test_url_gives_what_is_not_given():
    given = {"name": "a", "value": "b", "url": "https://example.com/shop/cart"}
    assert parse_cookie(given) == Cookie(name="a", value="b", domain="example.com", path="/shop/", secure=True)
    assert parse_cookie({**given, "path": "/", "secure": False}).secure is False
    assert parse_cookie({**given, "url": "http://example.com"}) == Cookie(name="a", value="b", domain="example.com")


def test_whole_items_of_each_dialect():
    wanted = Cookie(
        name="sid",
        value=SECRET,
        domain=".example.com",
        path="/app",
        expires=1795506471.02576,
        http_only=True,
        secure=True,
        same_site="None",
        partition_key="https://top.com",
        partition_cross_site=True,
    )
    common = {
        "name": "sid",
        "value": SECRET,
        "domain": ".example.com",
        "path": "/app",
        "httpOnly": True,
        "secure": True,
    }
    playwright = {
        **common,
        "expires": 1795506471.02576,
        "sameSite": "None",
        "partitionKey": "https://top.com",
        "_crHasCrossSiteAncestor": True,
    }
    notte = {
        **common,
        "expirationDate": 1795506471.02576,
        "hostOnly": False,
        "sameSite": "none",
        "session": False,
        "storeId": None,
        "expires": 1795506471.02576,
        "partitionKey": "https://top.com",
    }
    extension = {
        **common,
        "expirationDate": 1795506471.02576,
        "hostOnly": False,
        "sameSite": "no_restriction",
        "session": False,
        "storeId": "0",
        "id": 1,
        "partitionKey": {"topLevelSite": "https://top.com"},
    }
    assert [parse_cookie(d) for d in (CHROMIUM, playwright, notte, extension)] == [wanted] * 4


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": None}, "name is missing"),
        ({"name": 7}, "name is not text"),
        ({"value": None}, "value is missing"),
        ({"value": [SECRET]}, "value is not text"),
        ({"domain": None}, "domain is missing"),
        ({"domain": "."}, "domain is missing"),
        ({"domain": 5}, "domain is not text"),
        ({"path": {}}, "path is not text"),
        ({"domain": "", "url": f"ftp://{SECRET}"}, "url is no http or https address"),
        ({"domain": "", "url": f"https://[{SECRET}"}, "url is no http or https address"),
        ({"secure": "yes"}, "secure is neither true nor false"),
        ({"httpOnly": 1}, "httpOnly is neither true nor false"),
        ({"hostOnly": "no"}, "hostOnly is neither true nor false"),
        ({"session": "no"}, "session is neither true nor false"),
        ({"sameSite": SECRET}, "sameSite is none of"),
        ({"sameSite": 1}, "sameSite is none of"),
        ({"expires": SECRET}, "expires is not a number of seconds"),
        ({"expires": True}, "expires is not a number of seconds"),
        ({"expirationDate": "1790000000"}, "expirationDate is not a number of seconds"),
        ({"expires": -100}, "no time in seconds"),
        ({"expires": float("nan")}, "no time in seconds"),
        ({"expires": float("inf")}, "no time in seconds"),
        ({"expires": 13_400_000_000_000_000}, "no time in seconds"),  # microseconds since 1601, Chromium's own clock
        ({"expires": 10**400}, "no time in seconds"),
        ({"partitionKey": 5}, "partitionKey is neither text nor an object"),
        ({"partitionKey": {"topLevelSite": 5}}, "topLevelSite is not text"),
        ({"partitionKey": {"topLevelSite": "https://a.com", "hasCrossSiteAncestor": "x"}}, "hasCrossSiteAncestor is"),
        ({"partitionKeyOpaque": True}, "opaque"),
    ],
)
def test_bad_cookie_says_why_and_never_the_value(fields, says):
    with pytest.raises(ValueError, match=says) as caught:
        parse_cookie({**BASE, **fields})
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or SECRET not in str(caught.value.__context__)


def test_one_bad_cookie_never_keeps_the_others_out():
    ready = Cookie(name="ready", value="r", domain="example.com")
    items = [
        {**BASE, "name": "first"},
        {**BASE, "name": "broken", "expires": "soon"},
        ready,
        {**BASE, "name": None},
        SECRET,
        {**BASE, "name": "n" * 500, "value": 1},
        {**BASE, "name": "last"},
    ]
    good, bad = parse_cookies(items)
    assert [c.name for c in good] == ["first", "ready", "last"]
    assert good[1] is ready
    assert [name for name, _ in bad] == ["broken", "item 4", "item 5", "n" * 100]
    assert all(reason and SECRET not in reason for _, reason in bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*CHROMIUM, "url", "hostOnly", "expirationDate", "expiry", "partitionKeyOpaque"])


@given(st.dictionaries(KEYS, JSON | st.sampled_from(list(CHROMIUM.values()))))
def test_whatever_is_given_it_is_a_cookie_or_a_value_error(data):
    try:
        cookie = parse_cookie(data)
    except ValueError as e:
        assert str(e)  # noqa: PT017 - either outcome is right
    else:
        assert cookie.domain
        assert cookie.path
        assert cookie.session or 0 < cookie.expires < 1e13
        assert parse_cookie(to_playwright(cookie)) == cookie


# --- writing ------------------------------------------------------------------------------------------------------


def test_to_playwright_has_its_shape():
    assert to_playwright(from_cdp(CHROMIUM)) == {
        "name": "sid",
        "value": SECRET,
        "domain": ".example.com",
        "path": "/app",
        "expires": 1795506471.02576,
        "httpOnly": True,
        "secure": True,
        "sameSite": "None",
        "partitionKey": "https://top.com",
        "_crHasCrossSiteAncestor": True,
    }
    # A cookie without SameSite is not a Lax one: it also goes with a POST in its first two minutes.
    assert to_playwright(parse_cookie(BASE)) == {**BASE, "expires": -1, "httpOnly": False, "secure": False}


def test_to_cdp_has_the_shape_of_a_cookie_param():
    assert to_cdp(from_cdp(CHROMIUM)) == {
        "name": "sid",
        "value": SECRET,
        "domain": ".example.com",
        "path": "/app",
        "expires": 1795506471.02576,
        "httpOnly": True,
        "secure": True,
        "sameSite": "None",
        "partitionKey": {"topLevelSite": "https://top.com", "hasCrossSiteAncestor": True},
    }
    # No expires at all: Chromium takes 0 for the year 1970 and drops the cookie.
    assert to_cdp(parse_cookie(BASE)) == {**BASE, "httpOnly": False, "secure": False}


def test_cdp_cookies_of_older_browsers_and_opaque_partitions():
    assert from_cdp({**CHROMIUM, "partitionKey": "https://top.com"}).partition_key == "https://top.com"
    good, bad = parse_cookies([CHROMIUM, {**CHROMIUM, "name": "nonce", "partitionKeyOpaque": True}])
    assert [c.name for c in good] == ["sid"]
    assert [name for name, _ in bad] == ["nonce"]


@given(
    st.builds(
        Cookie,
        name=st.text(),
        value=st.text(),
        domain=st.sampled_from(["example.com", ".example.com", "localhost", "127.0.0.1", "[::1]", ".a.b.example.org"]),
        path=st.sampled_from(["/", "/a/b", "/%20"]),
        expires=st.just(-1.0) | st.floats(1, 9e11),
        http_only=st.booleans(),
        secure=st.booleans(),
        same_site=st.sampled_from(["Strict", "Lax", "None", None]),
    ),
    st.none()
    | st.tuples(st.sampled_from(["https://top.com", "http://localhost", "https://example.com"]), st.booleans()),
)
def test_round_trips(cookie, partition):
    if partition:
        cookie = dataclasses.replace(cookie, partition_key=partition[0], partition_cross_site=partition[1])
    assert parse_cookie(to_playwright(cookie)) == cookie
    assert from_cdp(to_cdp(cookie)) == cookie


# --- cost ---------------------------------------------------------------------------------------------------------


def test_import_leaves_out_what_only_a_save_needs():
    code = "import sys, lifecycle; had = set(sys.modules); import lifecycle.cookies; print(*set(sys.modules) - had)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lifecycle.cookies.jar" in loaded
    assert not {"filelock", "platformdirs", "playwright", "http.cookiejar", "ipaddress"} & set(loaded)
