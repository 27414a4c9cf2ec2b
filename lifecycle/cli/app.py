"""The commands with their arguments, options and help.

Rule: no work is done here. A command checks nothing but the form of its arguments and hands them on; what it needs is
imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lifecycle.audit import RecordKind
from lifecycle.cli.exits import MEANINGS
from lifecycle.states import Event, State

__all__ = ["app", "command"]


class Format(enum.StrEnum):
    """How `lifecycle diagram` draws."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PLANTUML = "plantuml"
    MARKDOWN = "markdown"


class TableFormat(enum.StrEnum):
    """What `lifecycle audit export` writes."""

    JSONL = "jsonl"
    CSV = "csv"


class ServerFile(enum.StrEnum):
    """What `lifecycle serve` prints for what runs and watches it."""

    KUBERNETES = "kubernetes"
    PROMETHEUS = "prometheus"


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


_EXITS = "\n".join(["\b", "Exit codes:", *(f"  {code:<3} {meaning}" for code, meaning in MEANINGS.items())])

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: sqlite:///FILE, with four slashes for an absolute path, or postgresql://USER@HOST/DATABASE. "
        "By default LIFECYCLE_STORE, else a file in your state folder.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
OfSession = Annotated[
    str | None, typer.Argument(metavar="SESSION", help="A session's id, or its beginning. By default all sessions.")
]
OfState = Annotated[
    State | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help=f"Records that leave a session in this state: {', '.join(State)}. With --kind commit, that led to it.",
    ),
]
OfEvent = Annotated[
    Event | None, typer.Option("--event", metavar="EVENT", help=f"Records of this event: {', '.join(Event)}.")
]
OfKind = Annotated[
    RecordKind | None,
    typer.Option("--kind", metavar="KIND", help=f"Records of this kind: {', '.join(RecordKind)}."),
]
OfCause = Annotated[
    str | None,
    typer.Option("--cause", metavar="CAUSE", help="By who or what sent the event: caller, deadline, signal, ..."),
]
OfAdapter = Annotated[str | None, typer.Option("--adapter", metavar="NAME", help="Records of this adapter.")]
OfError = Annotated[
    str | None,
    typer.Option("--error", metavar="CLASS", help="With an error of this class, also one of a step, as OSError."),
]
OfLabels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Records with this label; repeat it for more."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="From this time on: 2024-05-01T12:00, in UTC where it has no zone, or 2h, 7d."
    ),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time, as for --since.")]
SlowerThan = Annotated[
    float | None,
    typer.Option("--slower-than", metavar="MS", help="Records of which one step took more milliseconds."),
]
SessionArgument = Annotated[str, typer.Argument(metavar="ID", help="The session's id, or its beginning.")]


def _app(help_: str, *, epilog: str | None = None) -> typer.Typer:
    return typer.Typer(
        help=help_,
        epilog=epilog,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # one plain help for terminals, pipes and the README
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )


app = _app(
    "Browser sessions with one explicit, audited lifecycle, whatever runs the browser.\n\n"
    "New here? `lifecycle doctor` tells what is missing, `lifecycle demo` shows what there is, and "
    "`lifecycle run URL` opens a page.",
    epilog=_EXITS + "\n\nLIFECYCLE_DEBUG=1 adds the traceback to an error. NO_COLOR=1 turns colours off.",
)
sessions = _app("List, show, stop and reap sessions.\n\nThose of a store, whichever process runs them.")
audit = _app(
    "Read, check, sum up and export the transition log.\n\n"
    "What happened to each session, when, and why; and proof that it is so."
)
app.add_typer(sessions, name="sessions")
app.add_typer(audit, name="audit")
stores = _app(
    "Make a store, bring it up, and tell how it stands.\n\n"
    "PostgreSQL needs it once. A file is made by whoever opens it."
)
app.add_typer(stores, name="store")
adapters = _app("List the adapters that are installed, and check one.\n\nAn adapter is what runs the browsers.")
app.add_typer(adapters, name="adapters")


def command() -> Any:  # noqa: ANN401 - a command of typer's, which gives its classes no names
    """The whole command line, to be called with ``args`` and ``prog_name``."""
    return typer.main.get_command(app)


def _print_version(value: bool) -> None:
    if value:
        from lifecycle.journal import library_version  # noqa: PLC0415

        print(f"lifecycle {library_version()}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command(epilog=_examples("lifecycle demo", "lifecycle demo --keep demo-files"))
def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="Keep the screenshot, the cookie file and the log in this folder, which is made where it is "
            "missing. By default they are removed at the end.",
        ),
    ] = None,
) -> None:
    """Show the whole lifecycle on a real browser.

    Serves a small site on this machine and runs five sessions against it: one that is used and stopped, one that
    finds itself logged in through the cookie file, one that times out, one whose code raises, and one that a second
    client attaches to by id. Checks each and prints the transition log of all.
    """
    from lifecycle.cli.demo import run_demo  # noqa: PLC0415

    _exit(run_demo(keep))


@app.command(
    epilog=_examples(
        "lifecycle run https://example.com --screenshot page.png",
        "lifecycle run localhost:8000/account --cookie-file cookies.json --json",
    )
    + "\n\n"
    + _EXITS
)
def run(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The page to open; https:// is added where there is no scheme.")
    ],
    cookie_file: Annotated[
        Path | None,
        typer.Option("--cookie-file", metavar="FILE", help="Load cookies from this file, and save them to it."),
    ] = None,
    screenshot: Annotated[
        Path | None,
        typer.Option("--screenshot", metavar="FILE", help="Save a picture of the page, as .png or .jpg."),
    ] = None,
    timeout_minutes: Annotated[
        float,
        typer.Option("--timeout-minutes", metavar="N", help="End the session after N minutes without use."),
    ] = 3,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="NAME",
            help="What runs the browser: local, or another adapter that is installed. "
            "By default LIFECYCLE_ADAPTER, else local.",
        ),
    ] = None,
    headed: Annotated[bool, typer.Option("--headed", help="Open a window, where there is a display.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a session, go to URL, and print what came of it.

    That is the page's title and HTTP status, and how the session ended and when.

    The session is always stopped and its cookies saved, after Ctrl-C and SIGTERM too. An HTTP status such as 404 is
    printed and is no failure.
    """
    from lifecycle.cli.run import run as run_session  # noqa: PLC0415

    run_session(
        url,
        cookie_file=cookie_file,
        screenshot=screenshot,
        timeout_minutes=timeout_minutes,
        adapter=adapter,
        headed=headed,
        store=store,
        as_json=as_json,
    )


@app.command(
    epilog=_examples(
        "lifecycle serve",
        "lifecycle serve --port 9000 --adapter memory --store sqlite:///served.db",
        "lifecycle serve --print kubernetes",
    )
    + "\n\n"
    + _EXITS
)
def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="The address to listen on; one that other machines reach needs --allow-remote.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port; 0 for any that is free.")
    ] = 8700,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="NAME",
            help="What runs the browsers: local, memory for sessions without one, or another adapter that is "
            "installed. By default LIFECYCLE_ADAPTER, else local.",
        ),
    ] = None,
    store: StoreOption = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            envvar="LIFECYCLE_TOKEN",
            help="What clients have to send; better in LIFECYCLE_TOKEN, since arguments are seen by all. By default "
            "one is made and printed.",
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token: any user of this machine may drive the browsers.")
    ] = False,
    deny_private: Annotated[
        bool, typer.Option("--deny-private", help="Refuse operations that lead to private addresses.")
    ] = False,
    allow_chrome_args: Annotated[
        bool,
        typer.Option("--allow-chrome-args", help="Take switches for Chromium from clients, who then can read files."),
    ] = False,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Let in clients on other machines, with the token, and hand on to the browsers what they send. It is "
            "not encrypted here: put a proxy that does in front.",
        ),
    ] = False,
    public_url: Annotated[
        str | None,
        typer.Option(
            "--public-url",
            metavar="URL",
            help="Where clients on other machines reach the server, such as https://browsers.example.com. By default "
            "the name or address that they used.",
        ),
    ] = None,
    metrics_without_token: Annotated[
        bool,
        typer.Option(
            "--metrics-without-token", help="Tell the numbers at /metrics to whoever can reach them, without the token."
        ),
    ] = False,
    print_: Annotated[
        ServerFile | None,
        typer.Option(
            "--print",
            metavar="FILE",
            help="Serve nothing, and print a file to start from: kubernetes, a manifest of this server, or prometheus, "
            "alert rules for its numbers. Other options have no part in it.",
        ),
    ] = None,
) -> None:
    """Serve the session API over HTTP.

    For clients in other processes and languages; it is the API that notte-sdk speaks. Prints the two lines to paste
    where a client runs; the URL is a page that lists the sessions, too. Listens on loopback, unless --allow-remote
    lets in clients on other machines.

    Ctrl-C and SIGTERM stop every session, save what has to be saved, and end the server; after SIGTERM with exit
    code 0 when all went well. Meanwhile /ready says 503, no session begins, and all other requests are answered.
    """
    from lifecycle.cli.serving import print_file  # noqa: PLC0415
    from lifecycle.cli.serving import serve as serve_api  # noqa: PLC0415

    if print_ is not None:
        print_file(print_)
        return
    serve_api(
        host=host,
        port=port,
        adapter=adapter,
        store=store,
        token=token,
        no_token=no_token,
        deny_private=deny_private,
        allow_chrome_args=allow_chrome_args,
        allow_remote=allow_remote,
        public_url=public_url,
        metrics_without_token=metrics_without_token,
    )


@sessions.command(
    "list", epilog=_examples("lifecycle sessions list --status active", "lifecycle sessions list --label team=crawl")
)
def sessions_list(
    status: Annotated[
        State | None,
        typer.Option("--status", metavar="STATE", help=f"Only sessions in this state: {', '.join(State)}."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Only sessions with this label; repeat it for more."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List sessions, newest first."""
    from lifecycle.cli.stored import list_sessions  # noqa: PLC0415

    list_sessions(status=status, labels=label or [], limit=limit, store=store, as_json=as_json)


@sessions.command("show", epilog=_examples("lifecycle sessions show 3f2a91bc"))
def sessions_show(session_id: SessionArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show all that is known of one session."""
    from lifecycle.cli.stored import show_session  # noqa: PLC0415

    show_session(session_id, store=store, as_json=as_json)


@sessions.command("stop", epilog=_examples("lifecycle sessions stop 3f2a91bc"))
def sessions_stop(session_id: SessionArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Stop one session, wherever its owner runs on this machine.

    Its cookies are saved and its browser is released, as with a stop by its owner. One that is over stays as it is.
    """
    from lifecycle.cli.stored import stop_session  # noqa: PLC0415

    stop_session(session_id, store=store, as_json=as_json)


@sessions.command("reap", epilog=_examples("lifecycle sessions reap --dry-run", "lifecycle sessions reap"))
def sessions_reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be done.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release and end the sessions whose owner died without ending them.

    Their browsers are ended, on this machine or at the service that runs them, and the log says so. The exit code is 1
    when something could not be released, or needs an adapter that can't be had here; run it again then.
    """
    from lifecycle.cli.stored import reap_sessions  # noqa: PLC0415

    reap_sessions(dry_run=dry_run, store=store, as_json=as_json)


@audit.command(
    "log",
    epilog=_examples(
        "lifecycle audit log",
        "lifecycle audit log 3f2a91bc --json",
        "lifecycle audit log --state error --since 7d --label team=crawl",
        "lifecycle audit log --kind commit --slower-than 5000",
    ),
)
def audit_log(
    session_id: OfSession = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help="At most the newest N records. By default 100 in a table of all sessions, else all.",
        ),
    ] = None,
    state: OfState = None,
    event: OfEvent = None,
    kind: OfKind = None,
    cause: OfCause = None,
    adapter: OfAdapter = None,
    error: OfError = None,
    label: OfLabels = None,
    since: Since = None,
    until: Until = None,
    slower_than: SlowerThan = None,
    store: StoreOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each record as it is stored, one a line, and nothing else.")
    ] = False,
) -> None:
    """Print the records of the transition log, oldest first.

    An intent is written before an edge is carried out, a commit after it, with how long each step took. With filters,
    the records for which all of them hold.
    """
    from lifecycle.cli.filters import Filters  # noqa: PLC0415
    from lifecycle.cli.trail import print_log  # noqa: PLC0415

    filters = Filters(
        state=state, event=event, kind=kind, cause=cause, adapter=adapter, error=error, labels=label or (),
        since=since, until=until, slower_than=slower_than,
    )  # fmt: skip
    print_log(session_id, filters, limit=limit, store=store, as_json=as_json)


@audit.command("stats", epilog=_examples("lifecycle audit stats", "lifecycle audit stats --since 24h --json"))
def audit_stats(
    session_id: OfSession = None,
    state: OfState = None,
    event: OfEvent = None,
    kind: OfKind = None,
    cause: OfCause = None,
    adapter: OfAdapter = None,
    error: OfError = None,
    label: OfLabels = None,
    since: Since = None,
    until: Until = None,
    slower_than: SlowerThan = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum the transition log up.

    How long sessions stayed in each state, how long each step took and how it failed, how sessions ended, and what made
    them fail. Counts and longest times are exact; median and 95 % are within 1 %.

    A time in a state is told by two records: filter by session, label, adapter or time, and it is right.
    """
    from lifecycle.cli.filters import Filters  # noqa: PLC0415
    from lifecycle.cli.trail import print_stats  # noqa: PLC0415

    filters = Filters(
        state=state, event=event, kind=kind, cause=cause, adapter=adapter, error=error, labels=label or (),
        since=since, until=until, slower_than=slower_than,
    )  # fmt: skip
    print_stats(session_id, filters, store=store, as_json=as_json)


@audit.command(
    "follow",
    epilog=_examples(
        "lifecycle audit follow",
        "lifecycle audit follow --cursor-file seen.cursor --json | logger",
        "lifecycle audit follow --state error",
    ),
)
def audit_follow(
    session_id: OfSession = None,
    cursor_file: Annotated[
        Path | None,
        typer.Option(
            "--cursor-file",
            metavar="FILE",
            help="Keep in this file how far it has come, and go on from there the next time: each record is printed at "
            "least once, the first of all included. By default only what is new is printed.",
        ),
    ] = None,
    state: OfState = None,
    event: OfEvent = None,
    kind: OfKind = None,
    cause: OfCause = None,
    adapter: OfAdapter = None,
    error: OfError = None,
    label: OfLabels = None,
    since: Since = None,
    until: Until = None,
    slower_than: SlowerThan = None,
    store: StoreOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each record as it is stored, one a line, and nothing else.")
    ] = False,
) -> None:
    """Print records as they are written, by any process.

    Until Ctrl-C or SIGTERM. With a cursor file, what was printed is noted there once it has been written out: after
    a crash, the last records may come a second time, and none is left out. A cursor of another log, or of other
    filters, is refused.
    """
    from lifecycle.cli.filters import Filters  # noqa: PLC0415
    from lifecycle.cli.trail import follow_log  # noqa: PLC0415

    filters = Filters(
        state=state, event=event, kind=kind, cause=cause, adapter=adapter, error=error, labels=label or (),
        since=since, until=until, slower_than=slower_than,
    )  # fmt: skip
    follow_log(session_id, filters, cursor_file=cursor_file, store=store, as_json=as_json)


@audit.command(
    "export",
    epilog=_examples(
        "lifecycle audit export --format csv -o log.csv",
        "lifecycle audit export --since 2024-05-01 | gzip > log.jsonl.gz",
    ),
)
def audit_export(
    session_id: OfSession = None,
    format_: Annotated[
        TableFormat,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl: each record as it is stored, one a line. csv: a table in which no text is a formula: one that "
            "might be gets an apostrophe before it.",
        ),
    ] = TableFormat.JSONL,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write this file, in one step at the end. By default, and for -, print it.",
        ),
    ] = None,
    state: OfState = None,
    event: OfEvent = None,
    kind: OfKind = None,
    cause: OfCause = None,
    adapter: OfAdapter = None,
    error: OfError = None,
    label: OfLabels = None,
    since: Since = None,
    until: Until = None,
    slower_than: SlowerThan = None,
    store: StoreOption = None,
) -> None:
    """Write the records of the log for other programs.

    Oldest first.
    """
    from lifecycle.cli.filters import Filters  # noqa: PLC0415
    from lifecycle.cli.trail import export_log  # noqa: PLC0415

    filters = Filters(
        state=state, event=event, kind=kind, cause=cause, adapter=adapter, error=error, labels=label or (),
        since=since, until=until, slower_than=slower_than,
    )  # fmt: skip
    export_log(session_id, filters, form=format_, path=output, store=store)


CheckpointsOption = Annotated[
    Path | None,
    typer.Option("--checkpoints", metavar="FILE", help="Checkpoints that were kept elsewhere, to hold it against."),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Ask for a signature by this key: the log's, as `lifecycle audit key` prints it, or a witness's. Repeat "
        "it for more.",
    ),
]
OriginOption = Annotated[
    str | None,
    typer.Option("--origin", metavar="NAME", help="The name of the log in checkpoints, where it was given one."),
]


@audit.command(
    "verify",
    epilog=_examples(
        "lifecycle audit verify",
        "lifecycle audit verify --checkpoints notes.txt --key name+8c1d...+AZ1x...",
    )
    + "\n\n"
    + _EXITS,
)
def audit_verify(
    checkpoints: CheckpointsOption = None,
    key: KeysOption = None,
    session_id: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="ID", help="Check only this session, and the chains of those who wrote about it."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Write how many problems there were, and when, to this file too, which ends in .prom: for Prometheus, "
            "by the textfile collector of the node exporter.",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that the log is whole and unchanged.

    The exit code is 1 when it is not. Looks at every byte, hash and sequence, and at the path of each session
    through the table of states. Names the first record that is wrong, and why. Whoever can write to the store could
    make all of it anew; only a checkpoint that was kept elsewhere shows that.
    """
    from lifecycle.cli.auditing import verify_log  # noqa: PLC0415

    _exit(
        verify_log(
            checkpoints=checkpoints,
            keys=key or [],
            session_id=session_id,
            store=store,
            as_json=as_json,
            metrics=metrics,
        )
    )


@audit.command(
    "prove",
    epilog=_examples(
        "lifecycle audit prove 3f2a91bc -o proof.json",
        "lifecycle audit prove 3f2a91bc --sign-with key.pem --checkpoints notes.txt",
    )
    + "\n\n"
    + _EXITS,
)
def audit_prove(
    session_id: SessionArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; by default stdout.")
    ] = None,
    checkpoints: CheckpointsOption = None,
    sign_with: Annotated[
        Path | None, typer.Option("--sign-with", metavar="FILE", help="The private key to sign its checkpoint with.")
    ] = None,
    origin: OriginOption = None,
    store: StoreOption = None,
) -> None:
    """Prove that the records of one session are in the log.

    Without showing any others. The file is checked offline, by `lifecycle audit verify-proof` or any program that
    knows RFC 6962.
    """
    from lifecycle.cli.auditing import make_proof  # noqa: PLC0415

    make_proof(session_id, output=output, checkpoints=checkpoints, sign_with=sign_with, origin=origin, store=store)


@audit.command(
    "verify-proof",
    epilog=_examples(
        "lifecycle audit verify-proof proof.json --checkpoints notes.txt",
        "lifecycle audit verify-proof proof.json --key name+8c1d...+AZ1x...",
    )
    + "\n\n"
    + _EXITS,
)
def audit_verify_proof(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The proof.")],
    checkpoints: CheckpointsOption = None,
    key: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a proof offline; exit code 1 when it does not hold.

    Without a checkpoint that was kept elsewhere, or the key of the log, it shows no more than that it fits together.
    """
    from lifecycle.cli.auditing import verify_proof_file  # noqa: PLC0415

    _exit(verify_proof_file(path, checkpoints=checkpoints, keys=key or [], as_json=as_json))


@audit.command(
    "key",
    epilog=_examples("lifecycle audit key key.pem --new --origin example.com/browsers", "lifecycle audit key key.pem"),
)
def audit_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The private key, in PEM.")],
    new: Annotated[bool, typer.Option("--new", help="Make it first, in a new file.")] = False,
    origin: OriginOption = None,
    store: StoreOption = None,
) -> None:
    """Print the public part of the key that signs checkpoints.

    For those who check them.
    """
    from lifecycle.cli.auditing import show_key  # noqa: PLC0415

    show_key(path, new=new, origin=origin, store=store)


@audit.command(
    "prune",
    epilog=_examples("lifecycle audit prune --before 90d --dry-run", "lifecycle audit prune --before 2024-01-01"),
)
def audit_prune(
    before: Annotated[
        str,
        typer.Option("--before", metavar="TIME", help="Records from then on stay: a time, or a span such as 90d."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be taken out.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take old records out of the log.

    So that what stays can still be checked. Only whole segments go, as the register seals them each minute or 1,000
    records: none with a session that is held, or is not over. The register keeps how many went, and the hash and
    tree of them, so a copy can be checked too.
    """
    from lifecycle.cli.auditing import prune_log  # noqa: PLC0415

    prune_log(before=before, dry_run=dry_run, store=store, as_json=as_json)


ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is in the register.")]


@audit.command("hold", epilog=_examples("lifecycle audit hold 3f2a91bc --reason case-7"))
def audit_hold(session_id: SessionArgument, reason: ReasonOption, store: StoreOption = None) -> None:
    """Keep the records of a session from being taken out."""
    from lifecycle.cli.auditing import hold_session  # noqa: PLC0415

    hold_session(session_id, reason=reason, release_it=False, store=store)


@audit.command("release", epilog=_examples("lifecycle audit release 3f2a91bc --reason settled"))
def audit_release(session_id: SessionArgument, reason: ReasonOption, store: StoreOption = None) -> None:
    """Let the records of a held session be taken out again.

    When they are old enough.
    """
    from lifecycle.cli.auditing import hold_session  # noqa: PLC0415

    hold_session(session_id, reason=reason, release_it=True, store=store)


@audit.command(
    "report",
    epilog=_examples("lifecycle audit report -o report.html", "lifecycle audit report 3f2a91bc 77c0d1e2 -o -"),
)
def audit_report(
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write; one that is there is replaced. - is stdout."
        ),
    ],
    sessions: Annotated[
        list[str] | None,
        typer.Argument(metavar="SESSION", help="Ids of sessions, or their beginnings. By default all sessions."),
    ] = None,
    checkpoints: CheckpointsOption = None,
    key: KeysOption = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Leave out the check of the log.")] = False,
    store: StoreOption = None,
) -> None:
    """Write a report on sessions as one HTML page.

    To read, to filter and to print: what came of checking the log, as `lifecycle audit verify` does; the timelines of
    the sessions, how long each step took and what went wrong, and the paths that they took through the states. The page
    needs nothing but itself and connects to nothing.
    """
    from lifecycle.cli.auditing import verification  # noqa: PLC0415
    from lifecycle.cli.reporting import audit_report as write_report  # noqa: PLC0415

    found = None if no_verify else verification(checkpoints=checkpoints, keys=key or [], store=store)
    write_report(sessions or [], output=output, store=store, verification=found)


@app.command(
    epilog=_examples(
        "lifecycle diagram --format dot | dot -Tpng > lifecycle.png",
        "lifecycle diagram --write diagrams",
        "lifecycle diagram --check",
    )
)
def diagram(
    format_: Annotated[
        Format, typer.Option("--format", metavar="FORMAT", help=f"How to draw it: {', '.join(Format)}.")
    ] = Format.MERMAID,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Write every format into this folder instead.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look whether the files in --folder are up to date; 1 when not.")
    ] = False,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="The folder that --check looks at.")] = Path(
        "diagrams"
    ),
) -> None:
    """Draw the lifecycle from its table.

    States, events, guards, and the steps of each edge.
    """
    from lifecycle.cli.drawing import check_diagrams, print_diagram, write_diagrams  # noqa: PLC0415

    if write is not None:
        write_diagrams(write)
    if check:
        _exit(check_diagrams(folder if write is None else write))
    if write is None:
        print_diagram(format_)


StoreArgument = Annotated[
    str | None, typer.Argument(metavar="URL", help="The store, as for --store elsewhere. By default LIFECYCLE_STORE.")
]
RolesOption = Annotated[
    bool, typer.Option("--roles/--no-roles", help="Make the roles of writers, pruners and readers, with their rights.")
]


@stores.command(
    "init",
    epilog=_examples(
        "lifecycle store init postgresql://admin@db.internal/sessions",
        "lifecycle store init --print-sql | psql sessions",
    ),
)
def store_init(
    url: StoreArgument = None,
    roles: RolesOption = True,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print what would be done in PostgreSQL, and do nothing.")
    ] = False,
) -> None:
    """Make the tables of a store, where there are none yet.

    In PostgreSQL they lie in a schema of their own, named lifecycle. The user needs the right to make that, and for
    the roles the right to make roles.
    """
    from lifecycle.cli.storing import init_store  # noqa: PLC0415

    init_store(url, roles=roles, print_sql=print_sql)


@stores.command("upgrade", epilog=_examples("lifecycle store upgrade postgresql://admin@db.internal/sessions"))
def store_upgrade(url: StoreArgument = None, roles: RolesOption = True) -> None:
    """Bring the tables of a store to this version.

    Programs of the version before go on meanwhile and afterwards: bring up the store first, and then the programs.
    """
    from lifecycle.cli.storing import upgrade_store  # noqa: PLC0415

    upgrade_store(url, roles=roles)


@stores.command("show", epilog=_examples("lifecycle store show", "lifecycle store show --json"))
def store_show(url: StoreArgument = None, as_json: JsonOption = False) -> None:
    """Tell how a store stands, and how far its clock is from ours."""
    from lifecycle.cli.storing import show_store  # noqa: PLC0415

    show_store(url, as_json=as_json)


@adapters.command("list", epilog=_examples("lifecycle adapters list", "lifecycle adapters list --json"))
def adapters_list(as_json: JsonOption = False) -> None:
    """List the adapters that are installed, and what each can do."""
    from lifecycle.cli.adapters import list_adapters  # noqa: PLC0415

    list_adapters(as_json=as_json)


@adapters.command("check", epilog=_examples("lifecycle adapters check memory", "lifecycle adapters check local -- -x"))
def adapters_check(
    name: Annotated[str, typer.Argument(help="The adapter, by the name that it is installed under.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="More arguments for pytest, after --.")] = None,
    lacks: Annotated[
        list[str] | None, typer.Option("--lacks", help="A capability that the service behind it lacks.")
    ] = None,
) -> None:
    """Hold an adapter to the contract that all are held to.

    Runs the tests of `lifecycle.testing.contract`, which need pytest. The exit code is that of pytest.
    """
    from lifecycle.cli.adapters import check_adapter  # noqa: PLC0415

    _exit(check_adapter(name, lacks=lacks or (), arguments=arguments or ()))


@app.command("install-browser", epilog=_examples("lifecycle install-browser"))
def install_browser(
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing when a browser is there already.")] = False,
) -> None:
    """Find a browser for the local adapter, or install one.

    Tries Playwright's download, then the packages of this system.
    """
    from lifecycle.cli.install_browser import install_browser as install  # noqa: PLC0415
    from lifecycle.errors import StartFailed  # noqa: PLC0415

    try:
        install(echo=lambda line: print(line, flush=True), quiet=quiet)
    except StartFailed as e:
        print(e, file=sys.stderr)
        _exit(1)


@app.command(epilog=_examples("lifecycle doctor", "lifecycle doctor --json"))
def doctor(as_json: JsonOption = False) -> None:
    """Tell what is here, what is missing, and how to get it.

    Starts a real browser once and stops it. Exit code 1 when the local adapter can't work here.
    """
    from lifecycle.cli.doctor import examine  # noqa: PLC0415

    _exit(examine(as_json=as_json))


def _exit(code: int) -> None:
    raise typer.Exit(code)
