"""Replace what looks like a secret in text that leaves the machine, whoever has written it.

It knows secrets by the name before them (`password=`, `"api_key": "…"`, `Authorization: Bearer …`) and by their form (tokens of
known services, JSON Web Tokens, private keys). It rather replaces too much. What has neither a name nor a known form stays. It
takes about a second for 2 MB, whatever these contain.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "…"

_NAME: Final = (
    r"(?:passw(?:or)?d|passphrase|passwd|pwd|secret|token|credential|authorization|cookie|signature|"
    r"(?:api|access|account|auth|private|signing|encryption|shared)[_-]?key)"
)
_AFTER_NAME: Final = r"[\w.-]{0,40}\\?[\"']?[ \t]{0,3}[=:]>?[ \t]{0,3}"
_VALUE: Final = (
    r"(?:(?P<quote>\\?[\"'])(?:(?!(?P=quote))[^\n])*(?P=quote)"
    r"|(?:Bearer|Basic|Digest|Token)[ \t]+[^\s\"'\\]+"
    r"|(?!\d{1,15}\b|None\b|null\b|true\b|false\b)[^\s\"'\\,;&()\[\]{}<>]{4,})"
)
_NAMED: Final = re.compile(rf"(?P<name>{_NAME}{_AFTER_NAME}){_VALUE}", re.IGNORECASE)
_SCHEME: Final = re.compile(r"\b(Bearer|Basic)[ \t]+[\w.~+/-]{8,}=*", re.IGNORECASE)
_FORMS: Final = (
    re.compile(r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"),  # a JSON Web Token
    re.compile(
        r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|[sr]k_(?:live|test)_|AKIA|ASIA|AIza|npm_|pypi-|whsec_|hf_|SG\.)"
        r"[\w.+/=-]{12,}"
    ),
    re.compile(r"(?<=hooks\.slack\.com/)[\w/-]+"),
    re.compile(r"(?<=[?&]key=)[^\s&\"'\\]+|(?<=[?&]sig=)[^\s&\"'\\]+|(?<=[?&]code=)[^\s&\"'\\]+", re.IGNORECASE),
)


def mask(text: str) -> str:
    """Return `text` with everything replaced that looks like a secret; JSON stays JSON."""
    for form in _FORMS:
        text = form.sub(MASK, text)
    text = _NAMED.sub(_masked, text)
    return _SCHEME.sub(rf"\1 {MASK}", text)


def names_secret(name: str) -> bool:
    """Return whether a variable of the environment is probably secret, by its name."""
    return name not in ("PWD", "OLDPWD") and re.search(rf"{_NAME}|key$|dsn$", name, re.IGNORECASE) is not None


def _masked(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found['name']}{quote}{MASK}{quote}"
