from __future__ import annotations

import pytest

pytestmark = pytest.mark.lifecycle_needs("pages")

PAGE = (
    "data:text/html,<title>Shop</title><h1>Tea</h1><p id=price>3.50</p>"
    "<button onclick=\"this.innerText='sold'\">buy</button>"
)


def test_a_price(shop):
    assert shop.price(PAGE) == 3.5


def test_the_title(lifecycle_session):
    lifecycle_session.page.goto(PAGE)
    assert lifecycle_session.page.title() == "Shop"


def test_a_click(lifecycle_session):
    lifecycle_session.page.goto(PAGE)
    lifecycle_session.page.click("button")
    assert lifecycle_session.page.inner_text("button") == "sold"


def test_a_cdp_url(lifecycle_session):
    assert lifecycle_session.cdp_url().startswith("ws://127.0.0.1:")


def test_a_script(lifecycle_session):
    lifecycle_session.page.goto(PAGE)
    assert lifecycle_session.execute(type="evaluate_js", code="1 + 1").success


async def test_async(async_lifecycle_session):
    page = await async_lifecycle_session.page()
    await page.goto(PAGE)
    assert await page.inner_text("h1") == "Tea"


@pytest.mark.parametrize("width", [600, 1000])
def test_wide_and_narrow(lifecycle_client, width):
    with lifecycle_client.Session(viewport_width=width, viewport_height=600) as session:
        assert session.page.evaluate("innerWidth") == width
