"""Alerts by webhook: signed JSON for programs of one's own, and Alertmanager's API."""

from saeguard.integrations.webhook.alertmanager import AlertmanagerDestination
from saeguard.integrations.webhook.signed import WebhookDestination

__all__ = ["AlertmanagerDestination", "WebhookDestination"]
