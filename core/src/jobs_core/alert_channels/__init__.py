"""The alert channels that come with the core: a webhook of one's own, Slack, DingTalk. Plugins add others."""

from __future__ import annotations

from .channels import DingTalkChannel, SlackChannel, WebhookChannel

__all__ = ["DingTalkChannel", "SlackChannel", "WebhookChannel"]
