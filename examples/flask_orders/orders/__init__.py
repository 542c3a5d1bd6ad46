"""A shop on Flask and PostgreSQL: an order and the flow of its jobs are committed together, or not at all."""

from __future__ import annotations

import os
import secrets

from flask import Flask

from jobs_flask import JobsFlask

from .database import Product, db

jobs_flask = JobsFlask()


def create_app() -> Flask:
    """Return the application; `flask --app orders` and jobs.toml find it here."""
    app = Flask(__name__)
    url = os.environ.get("JOBS_BACKEND", "postgresql://localhost/shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = url.replace("postgresql://", "postgresql+psycopg://", 1)
    app.config["SECRET_KEY"] = os.environ.get("SHOP_SECRET") or secrets.token_hex(32)
    db.init_app(app)
    jobs_flask.init_app(app)

    from .staff import add_to
    from .views import orders

    app.register_blueprint(orders)
    add_to(app)
    with app.app_context():
        db.session.execute(db.text("SELECT pg_advisory_xact_lock(4711)"))  # web process and workers start together
        db.create_all()
        if db.session.get(Product, "teapot") is None:
            db.session.add(Product(name="teapot", left=2))
        db.session.commit()
    return app
