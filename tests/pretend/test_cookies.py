from __future__ import annotations

import json

import pytest
from shop import LOGIN, Shop

from lifecycle import CookieFileError, CookieRejected
from lifecycle.testing import assert_transitions


def test_nobody_is_logged_in(shop):
    assert shop.logged_in_as() is None


def test_a_login_lasts(shop):
    shop.log_in()
    assert shop.logged_in_as() == "anna"


def test_a_login_is_saved(shop):
    shop.log_in()
    assert shop.saved() == ["login"]


def test_two_customers(shop, lifecycle_client, tmp_path):
    other = Shop(lifecycle_client, tmp_path, customer="berta")
    for each in (shop, other):
        each.log_in()
    assert [each.logged_in_as() for each in (shop, other)] == ["anna", "berta"]


def test_a_login_is_not_another_customers(shop, lifecycle_client, tmp_path):
    shop.log_in()
    assert Shop(lifecycle_client, tmp_path, customer="berta").logged_in_as() is None


def test_customers_share_no_session(shop):
    shop.log_in()
    shop.logged_in_as()
    assert len(set(shop.visits)) == 2


def test_a_torn_file_is_told_and_starts_nothing(shop):
    shop.cookies.write_text('[{"name": "login"')
    with pytest.raises(CookieFileError), shop.visit():
        pass
    assert shop.visits == []


def test_what_was_in_the_file_stays(shop):
    shop.cookies.write_text(json.dumps([{**LOGIN, "name": "basket"}]))
    shop.log_in()
    assert shop.saved() == ["basket", "login"]


def test_a_bad_cookie_is_named(lifecycle_session):
    with pytest.raises(CookieRejected, match="odd"):
        lifecycle_session.set_cookies(cookies=[LOGIN, {"name": "odd", "value": "x"}])
    assert [c["name"] for c in lifecycle_session.get_cookies()] == ["login"]


@pytest.mark.parametrize("same_site", ["Strict", "Lax"])
def test_same_site(lifecycle_session, same_site):
    lifecycle_session.set_cookies(cookies=[{**LOGIN, "sameSite": same_site}])
    assert [c["sameSite"] for c in lifecycle_session.get_cookies()] == [same_site]


@pytest.mark.parametrize("count", [1, 20])
def test_many(lifecycle_session, count):
    lifecycle_session.set_cookies(cookies=[{**LOGIN, "name": f"c{n}"} for n in range(count)])
    assert len(lifecycle_session.get_cookies()) == count


def test_a_file_of_another_format(lifecycle_client, tmp_path):
    file = tmp_path / "cookies.txt"
    with lifecycle_client.Session(cookie_file=file) as session:
        session.set_cookies(cookies=[{**LOGIN, "expires": 4102444800}])
    assert "shop.test" in file.read_text()
    assert_transitions(session, "start", "stop")
