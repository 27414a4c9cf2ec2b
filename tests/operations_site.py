"""Pages for tests of operations, put on the site of `loopback_site`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopback_site import Site

HTML = {"Content-Type": "text/html; charset=utf-8"}

FORM = """
<header><a href="/elsewhere">Home</a></header>
<main>
  <h1>The form</h1>
  <form id="form" onsubmit="event.preventDefault(); out.textContent = JSON.stringify(
      Object.fromEntries(new FormData(form)))">
    <label>First name <input name="first" autocomplete="given-name"></label>
    <label for="mail">E-mail</label><input id="mail" type="email" name="mail">
    <input name="pass" type="password" placeholder="Password">
    <textarea name="text" aria-label="Remarks">old</textarea>
    <label><input type="checkbox" name="terms" value="yes"> I agree</label>
    <label><input type="radio" name="size" value="s"> Small</label>
    <select name="country" autocomplete="country-name"><option value="de">Germany<option value="fr">France</select>
    <input type="hidden" name="secret" value="x">
    <button>Send</button>
    <button type="button" disabled>Never</button>
    <button type="button" style="display: none">Hidden</button>
  </form>
  <div contenteditable aria-label="Editor">edit</div>
  <div role="button" tabindex="0" onclick="out.textContent = 'role'">Made up</div>
  <div id="host"></div>
  <iframe srcdoc="<button onclick=&quot;this.textContent='pressed'&quot;>Inside</button>"></iframe>
  <p id="out"></p>
</main>
<footer>The end</footer>
<script>
  host.attachShadow({mode: 'open'}).innerHTML = '<button id="shadow">Shadow</button>';
  host.shadowRoot.getElementById('shadow').onclick = () => { out.textContent = 'shadow'; };
</script>
"""

ARTICLE = """
<nav><a href="/elsewhere">Away</a></nav>
<article>
  <h1>A title</h1>
  <p>Some <b>bold</b> text, <a href="/there?a=1">a link</a> and <img src="/pixel.png" alt="a picture">.</p>
  <ul><li>one</li><li>two<ul><li>deep</li></ul></li></ul>
  <table><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>
  <pre><code class="language-python">print("x")
if True:
    pass</code></pre>
  <p style="display:none">not seen</p><p hidden>not seen</p>
  <script>var never = "script text";</script><style>.never { color: red }</style>
  <figure>A figure</figure>
</article>
<aside>Beside</aside><footer>Below</footer>
"""

LONG = (
    "<style>p {height: 100px; margin: 0}</style>"
    + "".join(f"<p id=p{n}>{n}</p>" for n in range(100))
    + """
<div id=box style="height:100px;overflow:auto;position:fixed;top:0;right:0"><div style="height:1000px">x</div></div>"""
)

FILES = """
<input type="file" id="direct" onchange="said.textContent = this.files[0].name + ':' + this.files[0].size">
<label for="direct" id="label">Choose</label>
<button id="asks">Ask</button>
<a id="plain" href="/file.bin">Download</a>
<a id="evil" href="/evil.bin">Download</a>
<a id="blob" download="made.txt">Made here</a>
<a id="nothing" href="#x">Nothing</a>
<p id="said"></p>
<script>
  blob.href = URL.createObjectURL(new Blob(['made here']));
  asks.onclick = () => {
    const input = document.createElement('input');
    input.type = 'file';
    input.onchange = () => { said.textContent = 'asked:' + input.files[0].name; };
    input.click();
  };
</script>
"""

DIALOGS = """
<button id="alerts" onclick="alert('hello'); said.textContent = 'alerted'">Alert</button>
<button id="asks" onclick="said.textContent = String(confirm('sure?'))">Confirm</button>
<p id="said"></p>
"""

PAGES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/form": (200, HTML, f"<!doctype html><title>Form</title>{FORM}".encode()),
    "/article": (200, HTML, f"<!doctype html><title>Article</title>{ARTICLE}".encode()),
    "/long": (200, HTML, f"<!doctype html><title>Long</title>{LONG}".encode()),
    "/files": (200, HTML, f"<!doctype html><title>Files</title>{FILES}".encode()),
    "/dialogs": (200, HTML, f"<!doctype html><title>Dialogs</title>{DIALOGS}".encode()),
    "/one": (200, HTML, b"<!doctype html><title>One</title><a href=/two>two</a>"),
    "/two": (200, HTML, b"<!doctype html><title>Two</title><h1>Two</h1>"),
    "/moved": (302, {"Location": "/two"}, b""),
    "/start": (302, {"Location": "/hop"}, b""),
    "/hop": (302, {"Location": "/one"}, b""),
    "/to-file": (302, {"Location": "file:///etc/hostname"}, b""),
    "/to-data": (302, {"Location": "data:text/html,<h1>data</h1>"}, b""),
    "/missing": (404, HTML, b"<!doctype html><title>Missing</title>"),
    "/file.bin": (200, {"Content-Type": "application/octet-stream"}, b"0123456789"),
    "/evil.bin": (
        200,
        {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="../../evil.txt"'},
        b"evil",
    ),
    "/pixel.png": (404, {}, b""),
}


def furnish(site: Site) -> None:
    """Put the pages on the site."""
    site.pages.update(PAGES)
