"""The alert channels that come with the core: any webhook, Slack, DingTalk. Plugins add others."""

from __future__ import annotations

from .channels import DingTalkChannel, SlackChannel, WebhookChannel

__all__ = ["DingTalkChannel", "SlackChannel", "WebhookChannel"]
