"""What halu raises for a caller's mistake: a message with the offending value, a hint, an HTTP
status.

Our own invariants are `assert`s; anything below is for the person who made the call. The command
line prints one line and exits with 2 (`Failed`: 1); the service answers with `status`.
"""

import difflib
from collections.abc import Iterable


class HaluError(Exception):
    """A mistake that a person can mend: `message` says what is wrong, `hint` what to do."""

    status = 400
    code: str | None = None

    def __init__(
        self, message: str, *, hint: str = "", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint
        self.param = param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[object, ...]:
        """Travel whole between processes, whatever a subclass is made from."""
        return _again, (type(self), self.message, self.hint, self.param, self.code)


def _again(
    kind: type[HaluError], message: str, hint: str, param: str | None, code: str | None
) -> HaluError:
    error = kind.__new__(kind)
    HaluError.__init__(error, message, hint=hint, param=param, code=code)
    return error


class BadInput(HaluError):
    """A value that cannot be used: out of range, unreadable, of the wrong type."""


class BadImage(BadInput):
    """A picture that cannot be used."""

    code = "invalid_image"


class Unknown(HaluError):
    """A name that is not registered; near matches are named, aliases among them, else all that is
    known by its own name.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        aliases: Iterable[str] = (),
        param: str | None = None,
        because: str = "",
    ) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, [*names, *aliases], n=3, cutoff=0.5)
        everything = f"Known: {', '.join(names)}." if names else "There are none."
        hint = f"Did you mean {' or '.join(near)}?" if near else everything
        super().__init__(
            f"Unknown {kind} {name!r}.",
            hint=f"{hint} {because}".strip(),
            param=param,
            code=f"unknown_{kind.partition(' ')[0]}",
        )


class Unsupported(HaluError):
    """Known, but not possible with this model, request or combination; never replaced silently."""


class Unavailable(HaluError):
    """Needs something that is not here: an extra, a file, a device."""

    status = 501

    @classmethod
    def without(cls, extra: str, message: str, *, param: str | None = None) -> "Unavailable":
        """What is missing is brought by this extra of halu."""
        return cls(message, hint=f"{installing(extra)}.", param=param)


def installing(extra: str) -> str:
    """How an extra is installed. A package index may know another project by halu's name."""
    return f"In halu's checkout: pip install '.[{extra}]'"


class Interrupted(HaluError):
    """Stopped by its user; the message says what is kept."""


class Failed(HaluError):
    """The work itself failed."""

    status = 500
