"""A shop on Flask: a view takes orders and a job confirms them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask

from jobs_flask import JobsFlask

from .database import db

jobs = JobsFlask()


def create_app(**config: Any) -> Flask:
    """Return the application; `flask --app shop` and jobs.toml find it here."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{Path(app.root_path).parent / 'shop.db'}"
    app.config.from_mapping(config)
    app.config.from_prefixed_env("SHOP")
    db.init_app(app)
    jobs.init_app(app)

    from .orders import orders

    app.register_blueprint(orders)
    with app.app_context():
        db.create_all()
    return app
