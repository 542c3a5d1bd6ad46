"""A bank, as far as an example needs one: it takes its time, and refuses some cards."""

import time


class Refused(Exception):
    """The bank will not pay, however often it is asked."""


def pay(key: str, card: str) -> str:
    """Charge a card and return the receipt. A real bank charges only once for one `key`, so asking again does no harm."""
    time.sleep(0.05)
    if card.endswith("0000"):
        raise Refused(f"the bank refuses the card …{card[-4:]}")
    return f"receipt {key}"
