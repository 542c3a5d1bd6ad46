"""Enqueue one mail; a worker sends it."""

from tasks import send_email

handle = send_email.enqueue("ada@example.com", subject="Your order is on its way")
print(f"enqueued {handle.id}")
