"""Parameters that the worker provides, such as a mailer or a database session; messages do not contain them."""

from .markers import Injected, injected, provided_by
from .providers import override, provides

__all__ = ["Injected", "injected", "override", "provided_by", "provides"]
