"""Webhooks: events about jobs, topics and flows that are sent to other systems, each by a job of the topic `webhooks`.

`announcing` makes these jobs at the end of a run, where they are stored together with it; the housekeeper makes those about
topics and flows. `job` is the job function, which signs (webhook_signing.py) and sends. Without `[webhooks]` in the
configuration, nothing here is imported by a worker.
"""
