"""Cal.com's webhooks may have a template, which replaces the body that Doorbell reads."""

from app.ledger.redis import Redis
from tests.support.vendors import connected_tool


async def test_a_webhook_with_a_template_is_replaced(redis: Redis) -> None:
    async with connected_tool("calcom", redis) as tool:
        before = await tool.ensure_subscriptions()
        tool.vendor.subscriptions[before.created[0].id].attributes["template"] = '{"title": "{{title}}"}'

        again = await tool.ensure_subscriptions()

        [webhook] = tool.vendor.subscriptions.values()
        assert [webhook.id] == [each.id for each in again.created]
        assert before.created[0].id != webhook.id
