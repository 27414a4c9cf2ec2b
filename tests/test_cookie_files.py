"""The cookie file of a session: its four formats, what a save keeps, three-way merging, and files that are no good."""

from __future__ import annotations

import dataclasses
import http.cookiejar
import json
import os
import stat
import tempfile
import traceback
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import COOKIE as SECRET

from lifecycle.cookies import Cookie, CookieFormat, read_cookie_file, save_cookie_file
from lifecycle.errors import CookieFileError, CookieSaveError

pytestmark = pytest.mark.slow

NOW = 1_790_000_000.0
LATER = NOW + 86400

STATE = {
    "cookies": [
        {
            "name": "sid",
            "value": SECRET,
            "domain": ".example.com",
            "path": "/",
            "expires": LATER + 0.25,
            "httpOnly": True,
            "secure": True,
            "sameSite": "Lax",
        },
        {
            "name": "part",
            "value": SECRET,
            "domain": "cdn.example",
            "path": "/",
            "expires": -1,
            "httpOnly": False,
            "secure": True,
            "sameSite": "None",
            "partitionKey": "https://top.com",
            "_crHasCrossSiteAncestor": True,
        },
    ],
    "origins": [{"origin": "https://example.com", "localStorage": [{"name": "k", "value": "v\ud83d"}]}],
    "unknown": {"big": 2**70, "float": 1.0, "text": "ü"},
}
NOTTE = [
    {
        "name": "sid",
        "value": SECRET,
        "domain": ".example.com",
        "path": "/",
        "httpOnly": True,
        "expirationDate": LATER + 0.25,
        "hostOnly": False,
        "sameSite": "Lax",
        "secure": True,
        "session": False,
        "storeId": "7",
        "expires": LATER + 0.25,
        "partitionKey": None,
    },
    {
        "name": "part",
        "value": SECRET,
        "domain": "cdn.example",
        "path": "/",
        "httpOnly": False,
        "expirationDate": -1.0,
        "hostOnly": True,
        "sameSite": "no_restriction",
        "secure": True,
        "session": True,
        "storeId": None,
        "expires": -1.0,
        "partitionKey": "https://top.com",
    },
]
EXTENSION = [
    {
        "domain": ".example.com",
        "expirationDate": LATER + 0.25,
        "hostOnly": False,
        "httpOnly": True,
        "name": "sid",
        "path": "/",
        "sameSite": "lax",
        "secure": True,
        "session": False,
        "storeId": "firefox-default",
        "value": SECRET,
        "id": 1,
    },
    {
        "domain": "cdn.example",
        "hostOnly": True,
        "httpOnly": False,
        "name": "part",
        "path": "/",
        "sameSite": "no_restriction",
        "secure": True,
        "session": True,
        "storeId": "firefox-default",
        "value": SECRET,
        "partitionKey": {"topLevelSite": "https://top.com"},
        "id": 2,
    },
]
NETSCAPE = f"""# Netscape HTTP Cookie File
# a comment of the user's

#lifecycle SameSite\tLax\t.example.com\t/\tsid
#HttpOnly_.example.com\tTRUE\t/\tTRUE\t{LATER:.0f}\tsid\t{SECRET}
#lifecycle Cookie\t{json.dumps(STATE["cookies"][1])}
"""
SAMPLES = {
    CookieFormat.STORAGE_STATE: json.dumps(STATE, indent=2),
    CookieFormat.NOTTE: json.dumps(NOTTE),
    CookieFormat.EXTENSION: json.dumps(EXTENSION, indent=2),
    CookieFormat.NETSCAPE: NETSCAPE,
}

SID = Cookie(
    name="sid",
    value=SECRET,
    domain=".example.com",
    expires=LATER + 0.25,
    http_only=True,
    secure=True,
    same_site="Lax",
)
PART = Cookie(
    name="part",
    value=SECRET,
    domain="cdn.example",
    secure=True,
    same_site="None",
    partition_key="https://top.com",
    partition_cross_site=True,
)


def a_cookie(name, value="v", **fields):
    return Cookie(name=name, value=value, domain="example.com", **fields)


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def by_name(path):
    return {c.name: c for c in read_cookie_file(path, now=NOW).cookies}


@pytest.fixture(params=list(CookieFormat))
def sample(request, tmp_path):
    """A file of each format in turn that holds `SID` and `PART`; its name says nothing of its format."""
    return put(tmp_path / "cookies", SAMPLES[request.param]), request.param


# --- reading ------------------------------------------------------------------------------------------------------


def test_every_format_is_told_by_what_is_in_the_file(sample):
    path, form = sample
    loaded = read_cookie_file(path, now=NOW)
    assert (loaded.format, loaded.existed, loaded.rejected, loaded.expired) == (form, True, (), 0)
    sid = dataclasses.replace(SID, expires=LATER) if form is CookieFormat.NETSCAPE else SID
    assert loaded.cookies == (sid, PART)
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(("name", "form"), [("a.txt", "netscape"), ("a.TXT", "netscape"), ("a.json", "storage_state")])
def test_missing_file_is_made_in_the_format_of_its_name(tmp_path, name, form):
    path = tmp_path / "folder" / name
    loaded = read_cookie_file(path, now=NOW)
    assert (loaded.path, loaded.cookies, loaded.existed, loaded.format) == (str(path), (), False, form)
    assert save_cookie_file(loaded, [SID, PART], now=NOW).saved == 2
    again = read_cookie_file(path, now=NOW)
    assert again.format == form
    assert {c.name for c in again.cookies} == {"sid", "part"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if form == "storage_state":
        assert json.loads(path.read_bytes())["origins"] == []  # as Playwright expects it


def test_a_bad_cookie_is_reported_by_name_and_an_expired_one_counted(tmp_path):
    items = [
        *STATE["cookies"],
        {**STATE["cookies"][0], "name": "late", "expires": NOW},
        {"name": "odd", "value": SECRET},
        5,
    ]
    loaded = read_cookie_file(put(tmp_path / "c.json", json.dumps({"cookies": items})), now=NOW)
    assert loaded.cookies == (SID, PART)
    assert loaded.rejected == (("odd", "domain is missing"), ("item 5", "it is not an object"))
    assert loaded.expired == 1


def test_bad_lines_of_a_cookies_txt(tmp_path):
    good = "example.com\tFALSE\t/\tFALSE\t0\t{}\tv\n"
    text = (
        good.format("a")
        + "example.com\tMAYBE\t/\tFALSE\t0\tflag\tv\n"
        + "example.com\tTRUE\t/\tFALSE\tsoon\ttime\tv\n"
        + "\tTRUE\t/\tFALSE\t0\tnowhere\tv\n"
        + f"just some text {SECRET}\n"
        + f"example.com\tFALSE\t/\tFALSE\t0\tname\t{SECRET}\ttoo many\n"
        + "#lifecycle Cookie\t{}\n"
        + good.format("b")
    )
    loaded = read_cookie_file(put(tmp_path / "c", text), now=NOW)
    assert [c.name for c in loaded.cookies] == ["a", "b"]
    assert [n for n, _ in loaded.rejected] == ["flag", "time", "nowhere", "line 5", "line 6", "line 7"]
    assert SECRET not in str(loaded.rejected)
    # ... and all of them are still there after a save.
    save_cookie_file(loaded, loaded.cookies, now=NOW)
    assert Path(loaded.path).read_text() == text


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (".example.com\tTRUE\t/a\tTRUE\t1800000000\tn\tv", a_cookie("n", path="/a", expires=1.8e9, secure=True)),
        ("example.com\tTRUE\t/\tFALSE\t1800000000.5\tn\tv", a_cookie("n", expires=1.8e9 + 0.5)),
        ("example.com\ttrue\t/\tfalse\t\tn\tv", a_cookie("n")),
        ("example.com\tTRUE\t/\tFALSE\t-1\tn\t", a_cookie("n", "")),
        ("example.com\tTRUE\t/\tFALSE\t0\tn", a_cookie("n", "")),
        ("example.com\tTRUE\t/\tFALSE\t0\t\tv", a_cookie("")),
        ('example.com\tTRUE\t/\tFALSE\t0\tn\t v=1; "ü" ', a_cookie("n", ' v=1; "ü" ')),
        ("#HttpOnly_example.com\tTRUE\t/\tFALSE\t0\tn\tv", a_cookie("n", http_only=True)),
        ("example.com\tTRUE\t/\tFALSE\t1800000000000\tn\tv", a_cookie("n", expires=1.8e9)),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_of_a_cookies_txt(tmp_path, line, wanted, newline):
    path = put(tmp_path / "c.txt", line + newline)
    assert read_cookie_file(path, now=NOW).cookies == (dataclasses.replace(wanted, domain=".example.com"),)
    # The flag counts, not the dot.
    path = put(tmp_path / "c.txt", line.replace("TRUE", "FALSE", 1).replace("true", "FALSE", 1) + newline)
    assert read_cookie_file(path, now=NOW).cookies[0].domain == "example.com"


def test_the_line_ends_of_a_cookies_txt_are_kept(tmp_path):
    path = put(tmp_path / "c.txt", NETSCAPE.replace("\n", "\r\n"))
    loaded = read_cookie_file(path, now=NOW)
    save_cookie_file(loaded, [*loaded.cookies, a_cookie("n", expires=LATER)], now=NOW)
    line = f"example.com\tFALSE\t/\tFALSE\t{LATER:.0f}\tn\tv\n"
    assert Path(path).read_bytes().decode() == (NETSCAPE + line).replace("\n", "\r\n")


def test_ipv6_at_the_start_of_a_cookies_txt_is_not_json(tmp_path):
    loaded = read_cookie_file(put(tmp_path / "c", "[::1]\tFALSE\t/\tFALSE\t0\tn\tv\n"), now=NOW)
    assert [(c.domain, c.name) for c in loaded.cookies] == [("[::1]", "n")]


def test_byte_order_mark_and_playwrights_state_without_cookies(tmp_path):
    assert read_cookie_file(put(tmp_path / "a", b"\xef\xbb\xbf[]"), now=NOW).cookies == ()
    assert read_cookie_file(put(tmp_path / "b", '{"origins": []}'), now=NOW).cookies == ()


def test_a_cookie_that_is_given_twice(tmp_path):
    first, last = ({"name": "n", "value": v, "domain": "a.com"} for v in "12")
    loaded = read_cookie_file(put(tmp_path / "c", json.dumps([first, first, last])), now=NOW)
    assert [c.value for c in loaded.cookies] == ["2"]
    assert loaded.rejected == (("n", "it is given twice; the last one counts"),)
    # Deleted in the session, the earlier one must not come back.
    save_cookie_file(loaded, [], now=NOW)
    assert json.loads(Path(loaded.path).read_bytes()) == []


# --- files that are no good ---------------------------------------------------------------------------------------


def refused(path):
    """The error of reading `path`; nothing that hangs on it holds what is in the file."""
    with pytest.raises(CookieFileError) as caught:
        read_cookie_file(path, now=NOW)
    error = caught.value
    assert error.path == str(path)
    chain = error
    while chain is not None:
        assert SECRET not in str(chain) + repr(vars(chain))
        assert isinstance(chain, (CookieFileError, OSError))  # those of the decoders hold the whole file
        chain = chain.__cause__ or chain.__context__
    assert SECRET not in "".join(traceback.format_exception(error))
    return error


@pytest.mark.parametrize("form", [CookieFormat.STORAGE_STATE, CookieFormat.NOTTE, CookieFormat.EXTENSION])
def test_json_that_is_cut_anywhere_is_refused_with_its_line(tmp_path, form):
    text = json.dumps(json.loads(SAMPLES[form]), indent=1)
    for at in range(len(text)):
        torn = text[:at]
        error = refused(put(tmp_path / "c.json", torn))
        assert error.line == torn.rstrip().count("\n") + 1
        assert "cut short" in error.reason or "not JSON" in error.reason


def test_cookies_txt_that_is_cut_anywhere_gives_no_half_cookie(tmp_path):
    whole = {(c.name, c.domain, c.path) for c in read_cookie_file(put(tmp_path / "c", NETSCAPE), now=NOW).cookies}
    cut = 0
    for at in range(len(NETSCAPE)):
        path = put(tmp_path / "c.txt", NETSCAPE[:at])
        try:
            loaded = read_cookie_file(path, now=NOW)
        except CookieFileError as e:
            cut += 1
            assert e.line == NETSCAPE[:at].count("\n") + 1  # noqa: PT017 - either outcome is right
        else:
            assert {(c.name, c.domain, c.path) for c in loaded.cookies} <= whole
    assert cut > 200


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "empty"),
        (b" \n\n", 1, "empty"),
        (b"null", 1, "neither JSON nor a line of cookies.txt"),
        (b'{"name": "package", "version": "1"}', 1, "no list of cookies"),
        (b'{"cookies": {"a": "' + SECRET.encode() + b'"}}', 1, "no list of cookies"),
        (b'[\n{"a": 1}\n{"b": 2}]', 3, "not JSON"),
        (b'[\n{"a": "' + SECRET.encode() + b'\\q"}]', 2, "not JSON"),
        (b'[{"expires": NaN}]', None, "a number that JSON does not have"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", None, "a number"),
        (b"SQLite format 3\0" + SECRET.encode(), 1, "binary"),
        (b"# ok\nname\xff" + SECRET.encode(), 2, "not UTF-8"),
        ("[]".encode("utf-16"), 1, "UTF-16"),
        (b"# only\nwords in " + SECRET.encode() + b"\n", 2, "1 field(s) between TABs"),
        (b"example.com FALSE / FALSE 0 name " + SECRET.encode() + b"\n", 1, "1 field(s) between TABs"),
    ],
)
def test_what_is_no_cookie_file_is_refused(tmp_path, content, line, says):
    error = refused(put(tmp_path / "c.json", content))
    assert error.line == line
    assert says in error.reason


def test_an_empty_cookies_txt_is_one_without_cookies(tmp_path):
    assert read_cookie_file(put(tmp_path / "c.txt", b""), now=NOW).cookies == ()


def test_folder_pipe_device_and_impossible_place_are_refused_at_once(tmp_path):
    assert refused(tmp_path).reason == "it is a folder"
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refused(tmp_path / "pipe").reason
    assert "regular file" in refused("/dev/null").reason
    put(tmp_path / "file", "x")
    assert "Not a directory" in refused(tmp_path / "file" / "c.json").reason
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refused(tmp_path / "loop").reason


# --- what a save keeps --------------------------------------------------------------------------------------------


def test_a_save_without_changes_keeps_every_value_of_the_file(sample):
    path, form = sample
    loaded = read_cookie_file(path, now=NOW)
    saved = save_cookie_file(loaded, loaded.cookies, now=NOW)
    assert (saved.saved, saved.kept_from_others, saved.removed, saved.conflicts) == (2, 0, 0, ())
    text = Path(path).read_text()
    if form is CookieFormat.NETSCAPE:
        assert text == NETSCAPE
    else:
        assert json.loads(text) == json.loads(SAMPLES[form])
        assert ("\n" in text.strip()) == ("\n" in SAMPLES[form])  # as wide as it was


def test_a_changed_cookie_keeps_the_dialect_and_what_is_unknown(sample):
    path, form = sample
    loaded = read_cookie_file(path, now=NOW)
    changed = dataclasses.replace(SID, value="new", expires=LATER + 9, same_site="None")
    added = Cookie(name="n", value="v", domain="new.example", expires=LATER)
    partitioned = dataclasses.replace(PART, name="p2", partition_cross_site=False)
    assert save_cookie_file(loaded, [changed, PART, added, partitioned], now=NOW).saved == 4
    again = read_cookie_file(path, now=NOW)
    assert again.format is form
    assert again.cookies == (changed, PART, added, partitioned)
    text = Path(path).read_text()
    match form:
        case CookieFormat.STORAGE_STATE:
            data = json.loads(text)
            assert {k: data[k] for k in ("origins", "unknown")} == {k: STATE[k] for k in ("origins", "unknown")}
            assert data["cookies"][0] == {
                **STATE["cookies"][0],
                "value": "new",
                "expires": LATER + 9,
                "sameSite": "None",
            }
            assert "sameSite" not in data["cookies"][2]
            assert data["cookies"][3]["_crHasCrossSiteAncestor"] is False
        case CookieFormat.NOTTE:
            sid, part, new, _ = json.loads(text)
            times = {"expirationDate": LATER + 9, "expires": LATER + 9}
            assert sid == {**NOTTE[0], "value": "new", "sameSite": "None", **times}
            assert part == NOTTE[1]
            assert set(new) == set(NOTTE[0])  # the schema, no more and no less
            assert (new["sameSite"], new["session"], new["hostOnly"]) == (None, False, True)
        case CookieFormat.EXTENSION:
            sid, part, new, p2 = json.loads(text)
            assert sid == {**EXTENSION[0], "value": "new", "sameSite": "no_restriction", "expirationDate": LATER + 9}
            assert part == EXTENSION[1]
            assert (new["sameSite"], new["storeId"], new["hostOnly"]) == ("unspecified", "firefox-default", True)
            assert p2["partitionKey"] == {"topLevelSite": "https://top.com", "hasCrossSiteAncestor": False}
        case CookieFormat.NETSCAPE:
            lines = text.splitlines()
            assert lines[:3] == NETSCAPE.splitlines()[:3]
            assert f"#HttpOnly_.example.com\tTRUE\t/\tTRUE\t{LATER + 9:.0f}\tsid\tnew" in lines
            assert f"new.example\tFALSE\t/\tFALSE\t{LATER:.0f}\tn\tv" in lines


def test_a_session_cookie_that_becomes_a_lasting_one_and_back(sample):
    path, _ = sample
    for expires in (LATER + 100, -1.0, LATER + 5):
        loaded = read_cookie_file(path, now=NOW)
        save_cookie_file(loaded, [dataclasses.replace(SID, expires=expires)], now=NOW)
        assert by_name(path)["sid"].expires == expires


def test_a_bare_list_of_playwright_cookies_stays_one(tmp_path):
    path = put(tmp_path / "c.json", json.dumps(STATE["cookies"]))
    loaded = read_cookie_file(path, now=NOW)
    save_cookie_file(loaded, [*loaded.cookies, a_cookie("n")], now=NOW)
    items = json.loads(Path(path).read_bytes())
    assert items[:2] == STATE["cookies"]
    assert set(items[2]) == {"name", "value", "domain", "path", "expires", "httpOnly", "secure"}


def test_what_could_not_be_read_or_set_stays_in_the_file(tmp_path):
    odd = {"name": "odd", "value": SECRET, "extra": [1]}
    path = put(tmp_path / "c.json", json.dumps({"cookies": [odd, *STATE["cookies"], 5]}))
    loaded = read_cookie_file(path, now=NOW)
    saved = save_cookie_file(loaded, [SID], now=NOW, refused=[PART])
    assert (saved.saved, saved.removed) == (1, 0)
    assert json.loads(Path(path).read_bytes())["cookies"] == [odd, *STATE["cookies"], 5]
    # What the browser took and the session then deleted does go.
    assert save_cookie_file(loaded, [SID], now=NOW).removed == 1
    assert json.loads(Path(path).read_bytes())["cookies"] == [odd, STATE["cookies"][0], 5]


def test_python_itself_reads_our_cookies_txt_and_sees_no_partitioned_cookie(tmp_path):
    path = str(tmp_path / "c.txt")
    cookies = [SID, PART, Cookie(name="tab", value="a\tb", domain="a.example"), a_cookie("plain", expires=LATER)]
    save_cookie_file(read_cookie_file(path, now=NOW), cookies, now=NOW)
    jar = http.cookiejar.MozillaCookieJar(path)
    jar.load(ignore_discard=True, ignore_expires=True)
    found = {c.name: c for c in jar}
    assert set(found) == {"sid", "plain"}
    sid = found["sid"]
    assert (sid.value, sid.domain, sid.secure, sid.expires) == (SECRET, ".example.com", True, int(LATER))
    assert sid.has_nonstandard_attr("HTTPOnly")
    # ... and a file of Python's own is read by us.
    jar.save(ignore_discard=True, ignore_expires=True)
    assert by_name(path)["plain"] == a_cookie("plain", expires=LATER)


NAMES = st.text(st.characters(exclude_categories=()), max_size=8)
COOKIES = st.lists(
    st.builds(
        Cookie,
        name=NAMES,
        value=st.text(st.characters(exclude_categories=()), max_size=20)
        | st.sampled_from(['"a,b"', "\t", "", "ü;=", "#"]),
        domain=st.sampled_from(["example.com", ".example.com", "localhost", "127.0.0.1", "[::1]"]),
        path=st.sampled_from(["/", "/a%20b/c"]),
        expires=st.just(-1.0) | st.integers(1, 9 * 10**11).map(float) | st.floats(1, 9e11),
        http_only=st.booleans(),
        secure=st.booleans(),
        same_site=st.sampled_from(["Strict", "Lax", "None", None]),
        partition_key=st.none() | st.sampled_from(["https://top.com", "https://example.com"]),
        partition_cross_site=st.booleans(),
    ).map(lambda c: c if c.partition_key else dataclasses.replace(c, partition_cross_site=False)),
    max_size=8,
    unique_by=lambda c: c.key,
)
EMPTY = {
    CookieFormat.STORAGE_STATE: '{"cookies": []}',
    CookieFormat.NOTTE: "[]",
    CookieFormat.EXTENSION: '[{"name": "odd", "sameSite": "lax"}]',
    CookieFormat.NETSCAPE: "# a comment\n",
}


@pytest.mark.parametrize("form", list(CookieFormat))
@given(first=COOKIES, second=COOKIES)
@settings(max_examples=40)
def test_whatever_a_browser_holds_survives_the_round_trip(run_folder, form, first, second):
    with tempfile.TemporaryDirectory(dir=run_folder) as folder:
        path = put(Path(folder, "c"), EMPTY[form])
        for cookies in (first, second):  # the second time over what the first one wrote
            saved = save_cookie_file(read_cookie_file(path, now=0), cookies, now=0)
            assert saved.saved == len(cookies)
            again = read_cookie_file(path, now=0)
            assert again.format is form
            assert {c.key: c for c in again.cookies} == {c.key: as_filed(c, form) for c in cookies}


def as_filed(cookie, form):
    """A line of cookies.txt holds whole seconds; what no line can hold is kept exactly."""
    text = cookie.name + cookie.value
    exact = form is not CookieFormat.NETSCAPE or cookie.session or cookie.partition_key or not text.isprintable()
    if exact and form is CookieFormat.NETSCAPE and not cookie.session and not cookie.partition_key:
        exact = any(ch < " " or ch == "\x7f" or "\ud800" <= ch <= "\udfff" for ch in text)
    return cookie if exact else dataclasses.replace(cookie, expires=float(int(cookie.expires)))


# --- merging ------------------------------------------------------------------------------------------------------

MERGES = [
    # loaded, in the file now, in the browser now -> in the file afterwards, conflict
    ("a", "a", "a", "a", False),
    ("a", "a", "b", "b", False),
    ("a", "a", None, None, False),
    ("a", "b", "a", "b", False),
    ("a", "b", "b", "b", False),
    ("a", "b", "c", "c", True),
    ("a", "b", None, "b", False),
    ("a", None, "a", None, False),
    ("a", None, "b", "b", True),
    ("a", None, None, None, False),
    (None, None, "a", "a", False),
    (None, "a", None, "a", False),
    (None, "a", "a", "a", False),
    (None, "a", "b", "b", True),
]


@pytest.mark.parametrize(("base", "theirs", "ours", "result", "conflict"), MERGES)
@pytest.mark.parametrize("name", ["c.json", "c.txt"])
def test_three_way_merge(tmp_path, name, base, theirs, ours, result, conflict):
    def jar(value):
        return [a_cookie("other", "o"), *([a_cookie("n", value)] if value else [])]

    path = tmp_path / name
    save_cookie_file(read_cookie_file(path, now=NOW), jar(base), now=NOW)
    loaded = read_cookie_file(path, now=NOW)
    save_cookie_file(read_cookie_file(path, now=NOW), jar(theirs), now=NOW)
    saved = save_cookie_file(loaded, jar(ours), now=NOW)
    found = by_name(path)
    assert (found["n"].value if "n" in found else None) == result
    assert "other" in found
    assert saved.conflicts == (("n",) if conflict else ())
    assert saved.saved == 1 + (ours is not None and ours == result)
    assert saved.removed == (base == theirs and ours is None and base is not None)


def test_counts_of_a_merge(tmp_path):
    path = tmp_path / "c.json"
    start = [a_cookie(n) for n in ("kept", "gone", "theirs", "both")]
    save_cookie_file(read_cookie_file(path, now=NOW), start, now=NOW)
    loaded = read_cookie_file(path, now=NOW)
    other = [a_cookie("kept"), a_cookie("gone"), a_cookie("theirs", "2"), a_cookie("both", "2"), a_cookie("new", "2")]
    save_cookie_file(read_cookie_file(path, now=NOW), other, now=NOW)
    mine = [a_cookie("kept"), a_cookie("theirs"), a_cookie("both", "3"), a_cookie("mine", "3")]
    saved = save_cookie_file(loaded, mine, now=NOW)
    assert {n: c.value for n, c in by_name(path).items()} == {
        "kept": "v",
        "theirs": "2",
        "both": "3",
        "new": "2",
        "mine": "3",
    }
    assert (saved.saved, saved.kept_from_others, saved.removed, saved.conflicts) == (3, 2, 1, ("both",))


def test_expired_cookies_go_and_are_no_deletion(tmp_path):
    path = tmp_path / "c.json"
    short = a_cookie("short", expires=NOW + 10)
    save_cookie_file(read_cookie_file(path, now=NOW), [short, a_cookie("long", expires=NOW + 99)], now=NOW)
    loaded = read_cookie_file(path, now=NOW)
    # Another session got it again meanwhile: that it ran out here deletes nothing there.
    renewed = dataclasses.replace(short, expires=NOW + 1000)
    save_cookie_file(read_cookie_file(path, now=NOW), [renewed, *loaded.cookies[1:]], now=NOW)
    saved = save_cookie_file(loaded, [a_cookie("ours", expires=NOW + 5), *loaded.cookies[1:]], now=NOW + 20)
    assert {n: c.expires for n, c in by_name(path).items()} == {"short": NOW + 1000, "long": NOW + 99}
    assert (saved.saved, saved.kept_from_others, saved.removed) == (1, 1, 0)
    loaded = read_cookie_file(path, now=NOW)
    assert save_cookie_file(loaded, [], now=NOW + 2000).removed == 0
    assert json.loads(path.read_bytes())["cookies"] == []


def test_what_the_browser_rounds_or_cuts_is_no_change(tmp_path):
    path = tmp_path / "c.json"
    years = a_cookie("years", expires=NOW + 10 * 365 * 86400)
    fine = a_cookie("fine", expires=LATER + 0.123456789)
    save_cookie_file(read_cookie_file(path, now=NOW), [years, fine], now=NOW)
    text = path.read_bytes()
    loaded = read_cookie_file(path, now=NOW)
    cut = dataclasses.replace(years, expires=NOW + 400 * 86400 + 0.5)  # Chromium keeps no cookie for longer
    rounded = dataclasses.replace(fine, expires=LATER + 0.123457)
    assert save_cookie_file(loaded, [cut, rounded], now=NOW + 60).saved == 2
    assert path.read_bytes() == text
    # A shorter life is a change all the same.
    save_cookie_file(loaded, [dataclasses.replace(years, expires=NOW + 3600), rounded], now=NOW + 60)
    assert by_name(path)["years"].expires == NOW + 3600


def test_a_file_that_vanished_is_made_again_with_everything(sample):
    path, form = sample
    loaded = read_cookie_file(path, now=NOW)
    Path(path).unlink()
    assert save_cookie_file(loaded, [*loaded.cookies, a_cookie("n")], now=NOW).saved == 3
    assert read_cookie_file(path, now=NOW).format is form
    assert set(by_name(path)) == {"sid", "part", "n"}
    if form is CookieFormat.STORAGE_STATE:
        assert json.loads(Path(path).read_bytes())["origins"] == STATE["origins"]


def test_a_file_that_changed_its_format_keeps_the_new_one(tmp_path):
    path = put(tmp_path / "c", SAMPLES[CookieFormat.NOTTE])
    loaded = read_cookie_file(path, now=NOW)
    put(tmp_path / "c", SAMPLES[CookieFormat.NETSCAPE])
    save_cookie_file(loaded, [*loaded.cookies, a_cookie("n")], now=NOW)
    again = read_cookie_file(path, now=NOW)
    assert again.format is CookieFormat.NETSCAPE
    assert {c.name for c in again.cookies} == {"sid", "part", "n"}


def test_saving_twice_from_one_load_is_the_same_as_once(tmp_path):
    path = tmp_path / "c.json"
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie("a"), a_cookie("b")], now=NOW)
    loaded = read_cookie_file(path, now=NOW)
    for _ in range(2):
        saved = save_cookie_file(loaded, [a_cookie("a", "2"), a_cookie("c")], now=NOW)
        assert (saved.saved, saved.conflicts) == (2, ())
        assert {n: c.value for n, c in by_name(path).items()} == {"a": "2", "c": "v"}


# --- the file itself ----------------------------------------------------------------------------------------------


def test_mode_link_and_nothing_left_over(tmp_path):
    real, link = tmp_path / "deep" / "real.json", tmp_path / "link.json"
    real.parent.mkdir()
    put(real, SAMPLES[CookieFormat.STORAGE_STATE])
    real.chmod(0o644)
    link.symlink_to(real)
    (real.parent / ".real.json.0123abcd.part").write_text("left by a writer that was killed")
    (real.parent / ".real.json.other.0123abcd.part").write_text("of another file")
    loaded = read_cookie_file(link, now=NOW)
    save_cookie_file(loaded, [a_cookie("n")], now=NOW)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert set(by_name(link)) == {"n"}
    assert {p.name for p in real.parent.iterdir()} == {
        "real.json",
        ".real.json.lock",
        ".real.json.other.0123abcd.part",
    }
    assert stat.S_IMODE((real.parent / ".real.json.lock").stat().st_mode) == 0o600


def test_a_link_to_nothing_is_followed(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    save_cookie_file(read_cookie_file(tmp_path / "link.json", now=NOW), [a_cookie("n")], now=NOW)
    assert (tmp_path / "link.json").is_symlink()
    assert set(by_name(tmp_path / "real.json")) == {"n"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_with_its_owner(tmp_path):
    path = put(tmp_path / "c.json", SAMPLES[CookieFormat.STORAGE_STATE])
    os.chown(path, 65534, 65534)
    save_cookie_file(read_cookie_file(path, now=NOW), [a_cookie("n")], now=NOW)
    assert (Path(path).stat().st_uid, Path(path).stat().st_gid) == (65534, 65534)


def test_the_path_is_the_one_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = read_cookie_file("c.json", now=NOW)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    save_cookie_file(loaded, [a_cookie("n")], now=NOW)
    assert set(by_name(tmp_path / "c.json")) == {"n"}


# --- rescue -------------------------------------------------------------------------------------------------------


@pytest.fixture
def state_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def fails(loaded, cookies, **options):
    with pytest.raises(CookieSaveError) as caught:
        save_cookie_file(loaded, cookies, now=NOW, **options)
    assert caught.value.path == loaded.path
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_lock_that_another_process_holds(tmp_path, state_home):
    path = tmp_path / "c.json"
    loaded = read_cookie_file(path, now=NOW)
    with FileLock(tmp_path / ".c.json.lock"):
        error = fails(loaded, [SID, PART], timeout=0.05)
    assert not path.exists()
    assert error.reason == "another process held its lock for 0.05 seconds"
    assert Path(error.rescue_path).parent == state_home / "lifecycle" / "rescue"
    assert Path(error.rescue_path).name.startswith("c-")
    assert error.rescue_path in str(error)
    assert stat.S_IMODE(Path(error.rescue_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(error.rescue_path).parent.stat().st_mode) == 0o700
    rescued = read_cookie_file(error.rescue_path, now=NOW)
    assert rescued.format is CookieFormat.STORAGE_STATE
    assert rescued.cookies == (SID, PART)
    # It is a cookie file like any other: nothing more is needed to go on with it.
    assert save_cookie_file(rescued, [SID], now=NOW).removed == 1


@pytest.mark.parametrize("torn", [b'{"cookies": [{"na', b"", b"\0\0\0", b"\xff\xfe"])
def test_file_that_was_torn_meanwhile_is_left_alone_and_all_is_rescued(tmp_path, state_home, torn):
    items = [*STATE["cookies"], {"name": "odd", "value": "x"}]
    path = put(tmp_path / "c.json", json.dumps({**STATE, "cookies": items}))
    loaded = read_cookie_file(path, now=NOW)
    put(tmp_path / "c.json", torn)
    error = fails(loaded, [a_cookie("n")], refused=[PART])
    assert "can't be read any more" in error.reason
    assert Path(path).read_bytes() == torn
    rescued = json.loads(Path(error.rescue_path).read_bytes())
    assert [c["name"] for c in rescued["cookies"]] == ["n", "part", "odd"]
    assert (rescued["origins"], rescued["unknown"]) == (STATE["origins"], STATE["unknown"])


def test_a_fault_of_the_library_costs_no_cookie(tmp_path, state_home):
    loaded = read_cookie_file(tmp_path / "c.txt", now=NOW)
    no_number = a_cookie("n", expires=float("inf"))  # no adapter gives such a one, and a line can't hold it
    error = fails(loaded, [SID, no_number])
    assert error.reason == "OverflowError"
    assert isinstance(error.__cause__, OverflowError)
    rescued = read_cookie_file(error.rescue_path, now=NOW)
    assert {c.name for c in rescued.cookies} == {"sid", "n"}


def test_no_place_for_the_cookies_and_none_for_the_rescue(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    loaded = read_cookie_file(blocker / "c.json", now=NOW)
    put(blocker, "in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(blocker))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    error = fails(loaded, [SID])
    assert Path(error.rescue_path).parent == tmp_path / "temp"  # the second place
    assert read_cookie_file(error.rescue_path, now=NOW).cookies == (SID,)
    monkeypatch.setattr(tempfile, "tempdir", str(blocker))
    error = fails(loaded, [SID])
    assert error.rescue_path is None
    assert "no rescue file could be written either" in str(error)
    assert blocker.read_text() == "in the way"
