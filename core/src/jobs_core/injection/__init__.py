"""Parameters that the worker provides, such as a mailer or a database session: they are no part of the message."""

from .markers import Injected, injected, provided_by
from .providers import override, provides

__all__ = ["Injected", "injected", "override", "provided_by", "provides"]
