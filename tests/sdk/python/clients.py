"""Drives clients of Mixpanel's read side that others have written, as they come from PyPI, against the relay by a plan.

Standard input is {"base": "http://host:port", "key": "...", "client": "jql" | "tap", ...}: "jql" takes "event" and "day" and is
`mixpanel-jql`; "tap" takes "streams" and "start" and is the Singer tap `tap-mixpanel`. Standard output is what the client has
read, as JSON.

Both know Mixpanel's hosts only. What they send is sent as it is, path, query, headers and body, to another host: that is
all that is changed, below them.
"""

import collections.abc
import contextlib
import io
import json
import os
import sys
import tempfile
from datetime import datetime
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter


def change_the_host(base):
    send = HTTPAdapter.send

    def elsewhere(adapter, request, **options):
        asked = urlsplit(request.url)
        assert asked.scheme == "https" and asked.hostname.endswith("mixpanel.com"), request.url
        request.url = base + asked.path + ("?" + asked.query if asked.query else "")
        return send(adapter, request, **options)

    HTTPAdapter.send = elsewhere


def jql(plan):
    # Of a time when it was still there.
    collections.Iterable = collections.abc.Iterable
    from mixpanel_jql import JQL, Events, Reducer

    day = datetime.strptime(plan["day"], "%Y-%m-%d")
    asked = Events({"event_selectors": [{"event": plan["event"]}], "from_date": day, "to_date": day})
    query = JQL(plan["key"], events=asked).group_by(keys=["e.properties.plan"], accumulator=Reducer.count())
    return list(query.send())


def tap(plan):
    import tap_mixpanel

    def run(directory, config, *arguments):
        path = os.path.join(directory, "config.json")
        with open(path, "w") as file:
            json.dump(config, file)
        sys.argv = ["tap-mixpanel", "--config", path, *arguments]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            tap_mixpanel.main()
        return said.getvalue()

    with tempfile.TemporaryDirectory() as directory:
        config = {
            "api_secret": plan["key"],
            "project_timezone": "UTC",
            "attribution_window": "1",
            "date_window_size": "30",
            "start_date": plan["start"] + "T00:00:00Z",
            "user_agent": "tap-mixpanel",
            "select_properties_by_default": "true",
        }
        catalog = json.loads(run(directory, config, "--discover"))
        for stream in catalog["streams"]:
            for entry in stream["metadata"]:
                entry["metadata"]["selected"] = stream["tap_stream_id"] in plan["streams"]
        path = os.path.join(directory, "catalog.json")
        with open(path, "w") as file:
            json.dump(catalog, file)
        lines = run(directory, config, "--catalog", path).splitlines()
    messages = [json.loads(line) for line in lines]
    records = {}
    for message in messages:
        if message["type"] == "RECORD":
            records.setdefault(message["stream"], []).append(message["record"])
    return records


def main():
    plan = json.load(sys.stdin)
    change_the_host(plan["base"])
    read = {"jql": jql, "tap": tap}[plan["client"]](plan)
    # Decimals are what one of them reads numbers as.
    json.dump(read, sys.stdout, default=float)


main()
