"""Checkpoints: signed notes that say how far a log reaches, to be kept where the log is not.

Rule: the form is that of C2SP, so that witnesses of others can cosign them: https://c2sp.org/tlog-checkpoint (the
text), https://c2sp.org/signed-note (signatures and keys), https://c2sp.org/tlog-cosignature (what witnesses add). The
tree is that of the register (`lifecycle.audit.register`); the name of the key is the origin, the identity of one log.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

from lifecycle.errors import AuditError, ConfigError, UsageError

if TYPE_CHECKING:
    import asyncio
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from lifecycle.audit.register import Tip

__all__ = ["Checkpoints", "Key", "Note", "Publisher", "read_notes"]

ENVIRONMENT: Final = "LIFECYCLE_CHECKPOINTS"
"""The environment variable that names the file for checkpoints where the code does not."""

KEY_ENVIRONMENT: Final = "LIFECYCLE_CHECKPOINT_KEY"
"""... and the file with the key that signs them."""

DEFAULT_ORIGIN: Final = "lifecycle/"
"""What the identity of a log follows in its name, where it was given none."""

_SIGNATURE: Final = b"\x01"
"""The kind of a key that signs notes with Ed25519."""
_COSIGNATURE: Final = b"\x04"
"""... of a key that cosigns them, with the time."""
_DASH: Final = "\N{EM DASH} "
_END: Final = "\n--\n"
"""What follows each note in a file of many: neither a note nor its signatures have such a line."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key for notes.

    Attributes:
        name: Its name; for the key of a log its origin.
        kind: One byte: 1 signs, 4 cosigns.
        public: The public key of Ed25519, 32 bytes.
    """

    name: str
    kind: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in ``name+hash+key``, as `lifecycle audit key` prints it and witnesses publish theirs.

        Raises:
            ConfigError: It is none.
        """
        name, _, rest = text.strip().partition("+")
        hash_, _, data = rest.partition("+")  # a plus sign may stand in what follows
        try:
            raw = _unbase64(data)
        except ValueError:
            raw = b""
        key = cls(name, raw[:1], raw[1:])
        if not name or key.kind not in (_SIGNATURE, _COSIGNATURE) or len(key.public) != 32 or key.id.hex() != hash_:
            raise ConfigError(option="key", value=text, allowed="name+hash+key, as `lifecycle audit key` prints it")
        return key

    @property
    def id(self) -> bytes:
        """The four bytes that a signature names its key by."""
        return sha256(self.name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.kind + self.public).decode()}"

    def signed(self, note: Note) -> bool:
        """True when `note` has a signature by this key, and it is right.

        Raises:
            UsageError: The extra ``signing`` is not installed.
        """
        return any(name == self.name and self.verifies(note.text, blob) for name, blob in note.signatures)

    def verifies(self, text: str, blob: bytes) -> bool:
        """True when `blob`, the four bytes of a key's id and a signature, is right for that text and this key."""
        public = _ed25519().Ed25519PublicKey.from_public_bytes(self.public)
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        message, signature = text.encode(), blob[4:]
        if self.kind == _COSIGNATURE:
            message = f"cosignature/v1\ntime {int.from_bytes(signature[:8], 'big')}\n".encode() + message
            signature = signature[8:]
        if blob[:4] != self.id:
            return False
        try:
            public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint.

    Attributes:
        origin: Which log it is about.
        size: Number of entries of its register.
        root: The root of the tree over them.
        signatures: Each with the name of its key, and the bytes after that: four of the key's id, and the signature.
        extra: Lines of the text after the third, if any.
    """

    origin: str
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes], ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extra)
        return "".join(f"{line}\n" for line in lines)

    def __str__(self) -> str:
        lines = (f"{_DASH}{name} {base64.b64encode(blob).decode()}\n" for name, blob in self.signatures)
        return f"{self.text}\n{''.join(lines)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The note in `text`.

        Raises:
            ValueError: It is none.
        """
        body, blank, rest = text.partition("\n\n")
        lines = body.split("\n")
        if not blank or len(lines) < 3 or not all(lines):
            msg = "a checkpoint begins with three lines, its origin, size and root, and an empty one follows"
            raise ValueError(msg)
        origin, size, root, *extra = lines
        if not size.isascii() or not size.isdigit() or (size != "0" and size.startswith("0")):
            msg = f"the size of a checkpoint is no whole number: {size!r}"
            raise ValueError(msg)
        signatures = []
        for line in rest.splitlines():
            name, space, blob = line.removeprefix(_DASH).partition(" ")
            if not line.startswith(_DASH) or not name or not space:
                msg = f"this is no signature: {line!r}"
                raise ValueError(msg)
            signatures.append((name, _unbase64(blob)))
        if signatures and not rest.endswith("\n"):
            msg = "the last signature is cut off"
            raise ValueError(msg)
        note = cls(origin, int(size), _unbase64(root), tuple(signatures), tuple(extra))
        if len(note.root) != 32:
            msg = f"the root of a checkpoint has 32 bytes and not {len(note.root)}"
            raise ValueError(msg)
        return note


def _unbase64(text: str) -> bytes:
    """Strictly: each value has one form, so that no bit of it can change unseen."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as e:
        msg = f"this is no base64: {text!r}"
        raise ValueError(msg) from e
    if base64.b64encode(raw).decode() != text:
        msg = f"this is no canonical base64: {text!r}"
        raise ValueError(msg)
    return raw


def read_notes(path: str | os.PathLike[str]) -> tuple[list[Note], str]:
    """The checkpoints in a file, and what stands after the last whole one: a write that was interrupted. Blocks.

    Raises:
        AuditError: A checkpoint in it is damaged.
        OSError: It can't be read.
    """
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as e:
        msg = f"{os.fspath(path)} is no file of checkpoints, or is damaged: {e}"
        raise AuditError(msg) from e
    notes = []
    if _END not in text:  # one alone, as a function of the user's was given it
        with contextlib.suppress(ValueError):
            return [Note.parse(text)], ""
    *blocks, torn = text.split(_END)
    for number, block in enumerate(blocks, 1):
        try:
            notes.append(Note.parse(f"{block}\n"))
        except ValueError as e:
            msg = f"checkpoint {number} in {os.fspath(path)} is damaged: {e}"
            raise AuditError(msg) from e
    return notes, torn


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where checkpoints go, and what signs them.

    Attributes:
        to: A file that they are appended to, or a function that is called with each as text, on a worker thread. Keep
            it where whoever could change the store can't change it too.
        key: A file with the private key (PEM, as ``openssl genpkey -algorithm ed25519`` makes it), or None to leave
            them unsigned. Needs the extra ``signing``.
        origin: The name of the log in them, such as ``example.com/browsers``; by default ``lifecycle/`` and its random
            identity. No spaces, no plus signs. Two logs need two names.
    """

    to: str | os.PathLike[str] | Callable[[str], object]
    key: str | os.PathLike[str] | None = None
    origin: str | None = None


def make_publisher(
    given: Checkpoints | str | os.PathLike[str] | Callable[[str], object] | None,
) -> Publisher | None:
    """What hands out the checkpoints of a client that was given this; None where nothing asks for any.

    Raises:
        ConfigError: The key or the place can't be used.
    """
    if given is None:
        to = os.environ.get(ENVIRONMENT)
        given = Checkpoints(to=to, key=os.environ.get(KEY_ENVIRONMENT) or None) if to else None
    if given is None:
        return None
    if not isinstance(given, Checkpoints):
        if not callable(given) and not isinstance(given, str | os.PathLike):
            allowed = "a file, a function that takes a text, or lifecycle.audit.Checkpoints"
            raise ConfigError(option="checkpoints", value=given, allowed=allowed)
        given = Checkpoints(to=given)
    return Publisher(given)


class Publisher:
    """Signs checkpoints and hands them out. Its methods block.

    Args:
        options: Where to, and what with.

    Raises:
        ConfigError: The key or the place can't be used.
    """

    def __init__(self, options: Checkpoints) -> None:
        self._to = options.to if callable(options.to) else Path(options.to).expanduser().absolute()
        if options.origin is not None and (not options.origin or set(options.origin) & set(" +\n\t")):
            allowed = "a name without spaces and plus signs, such as example.com/browsers"
            raise ConfigError(option="origin", value=options.origin, allowed=allowed)
        self._origin = options.origin
        self._begins = (self._origin or DEFAULT_ORIGIN).encode()
        self._key = load_key(options.key) if options.key is not None else None
        self._last: str | None = None
        self.running: asyncio.Future[None] | None = None
        """The last that was begun to be handed out, for whoever begins the next; see `lifecycle.journal`."""
        if isinstance(self._to, Path):
            try:
                with _opened(self._to, self._begins):
                    pass
            except OSError as e:
                allowed = f"a file that can be written ({e.strerror or e})"
                raise ConfigError(option="checkpoints", value=str(self._to), allowed=allowed) from e

    def publish(self, tip: Tip) -> None:
        """Hand out the checkpoint for a tip, unless it is the one that was handed out last.

        Raises:
            OSError: The file can't be written.
            Exception: What the function raised.
        """
        note = make_note(tip.log, tip.size, tip.root, origin=self._origin, key=self._key)
        if note.text == self._last:
            return
        if isinstance(self._to, Path):
            _append(self._to, self._begins, f"{note}{_END.lstrip()}")
        else:
            self._to(str(note))
        self._last = note.text


def make_note(
    log: str, size: int, root: bytes, *, origin: str | None = None, key: Ed25519PrivateKey | None = None
) -> Note:
    """The checkpoint of a log at that size, signed where there is a key."""
    note = Note(origin or f"{DEFAULT_ORIGIN}{log}", size, root)
    if key is None:
        return note
    public = public_key(key, note.origin)
    return Note(note.origin, size, root, ((public.name, public.id + key.sign(note.text.encode())),))


@contextlib.contextmanager
def _opened(path: Path, origin: bytes) -> Iterator[int]:
    """A file of notes to append to, this process alone. What a write left that was interrupted is put aside first."""
    from filelock import lock_descriptor  # noqa: PLC0415 - only needed here

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        lock_descriptor(fd)
        with os.fdopen(fd, "rb", closefd=False) as f:
            end = f.seek(0, os.SEEK_END)
            begin = f.seek(max(0, end - _TAIL))
            tail = f.read()
        found = tail.rfind(_END.encode())
        whole = begin + found + len(_END) if found >= 0 else 0
        if found < 0 and (begin or not (tail.startswith(origin) or origin.startswith(tail))):
            raise OSError(errno.EINVAL, "it is not a file of checkpoints; move it away or choose another")
        if torn := tail[whole - begin :]:
            with path.with_name(f"{path.name}.torn").open("ab") as aside:
                aside.write(torn)
                aside.flush()
                os.fsync(aside.fileno())
            os.ftruncate(fd, whole)
        yield fd
    finally:
        os.close(fd)


def _append(path: Path, origin: bytes, text: str) -> None:
    with _opened(path, origin) as fd:
        data = memoryview(text.encode())
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)


_TAIL: Final = 1 << 16
"""Bytes; no note is as long."""


def load_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """The private key in a file. Blocks.

    Raises:
        ConfigError: There is none that can be used.
        UsageError: The extra ``signing`` is not installed.
    """
    ed25519 = _ed25519()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra

    allowed = "a file with an Ed25519 key in PEM; make one with `lifecycle audit key --new FILE`"
    try:
        raw = Path(path).expanduser().read_bytes()
        key = serialization.load_pem_private_key(raw, password=None)
    except (OSError, ValueError, TypeError) as e:
        why = e.strerror if isinstance(e, OSError) else type(e).__name__
        raise ConfigError(option="key", value=os.fspath(path), allowed=f"{allowed} ({why})") from e
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(option="key", value=os.fspath(path), allowed=allowed)
    return cast("Ed25519PrivateKey", key)


def new_key(path: Path) -> None:
    """Make a private key and keep it in a new file, readable by its user alone. Blocks.

    Raises:
        OSError: The file is there already, or can't be made.
    """
    ed25519 = _ed25519()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra

    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(pem)
        f.flush()
        os.fsync(f.fileno())


def public_key(key: Ed25519PrivateKey, origin: str) -> Key:
    """The public part of a log's key."""
    return Key(origin, _SIGNATURE, key.public_key().public_bytes_raw())


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = "signatures need the package cryptography; pip install 'session-lifecycle[signing]'"
        raise UsageError(msg) from e
    return ed25519
