"""The application: configuration, plugins, registry and backend of one process, and the enqueue operation.

`App` (app.py) is what others see; its parts are rooms of their own: what it has (resources.py), what it sends (envelopes.py,
flow_sending.py), when (delivery.py), and what becomes of it (results.py). current.py knows the application of this process.
"""

from .app import App
from .current import current_app, set_app_source, set_current_app, warm_up
from .envelopes import CHECKPOINTS

__all__ = ["CHECKPOINTS", "App", "current_app", "set_app_source", "set_current_app", "warm_up"]
