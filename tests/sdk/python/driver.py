"""Drives PyPI's `mixpanel` by a plan.

Standard input is {"base": "http://host:port", "buffered": bool, "calls": [{"method", "args", "kwargs"}]}: each call is a
method of `mixpanel.Mixpanel`. Standard output is {"errors": [...]}, with one entry for each call that raised, and one
for the last flush if that did.
"""

import json
import sys

from mixpanel import BufferedConsumer, Consumer, Mixpanel, MixpanelException
from mixpanel.credentials import ServiceAccountCredentials


def main():
    plan = json.load(sys.stdin)
    base = plan["base"]
    # `api_host` forces https, so the four endpoints are given one by one.
    consumer = (BufferedConsumer if plan["buffered"] else Consumer)(
        events_url=f"{base}/track",
        people_url=f"{base}/engage",
        groups_url=f"{base}/groups",
        import_url=f"{base}/import",
        credentials=ServiceAccountCredentials("sandbox-sa", "sandbox-secret", "12345"),
    )
    client = Mixpanel(plan["token"], consumer=consumer)
    errors = []
    for call in plan["calls"]:
        try:
            getattr(client, call["method"])(*call.get("args", []), **call.get("kwargs", {}))
        except MixpanelException as error:
            errors.append(f"{call['method']}: {error}")
    if plan["buffered"]:
        try:
            consumer.flush()
        except MixpanelException as error:
            errors.append(f"flush: {error}")
    json.dump({"errors": errors}, sys.stdout)


main()
