"""Drives PyPI's `mixpanel-utils`, Mixpanel's own, against the read side by a plan.

Standard input is {"base": "http://host:port", "key": "...", "calls": [{"method", "args", "kwargs"}]}: each call is a method of
`MixpanelUtils`. Standard output is {"answers": [...]}, what each returned.
"""

import json
import sys

from mixpanel_utils import MixpanelUtils


def main():
    plan = json.load(sys.stdin)
    client = MixpanelUtils(plan["key"])
    # It knows Mixpanel's regions only, so the hosts are replaced behind its back; nothing else is.
    client.raw_api = client.formatted_api = plan["base"] + "/api"
    answers = [getattr(client, call["method"])(*call["args"], **call["kwargs"]) for call in plan["calls"]]
    json.dump({"answers": answers}, sys.stdout)


main()
