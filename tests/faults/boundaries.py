"""The boundaries of the commit path, as the hook in `hook/` takes them: a call, and whether before or after it."""

from typing import Any

BOUNDARIES: dict[str, dict[str, Any]] = {
    "after decode": {"call": "pipeline.images.decoding.decode", "when": "after", "nth": 100},
    "before the part's rename": {"call": "os.replace", "when": "before", "match": "/attempts/", "nth": 2},
    "after the part's rename": {"call": "os.replace", "when": "after", "match": "/attempts/", "nth": 2},
    "before staging": {"call": "os.rename", "when": "before", "match": "/staged/part-", "nth": 2},
    "after staging": {"call": "os.rename", "when": "after", "match": "/staged/part-", "nth": 2},
    "before the plan": {"call": "os.replace", "when": "before", "match": "plan.json"},
    "after the plan": {"call": "os.replace", "when": "after", "match": "plan.json"},
    "before the manifest": {"call": "os.replace", "when": "before", "match": "manifest.json"},
    "between manifest and publishing": {"call": "os.replace", "when": "after", "match": "manifest.json"},
    "before publishing": {"call": "os.rename", "when": "before", "match": "/predictions/"},
    "after publishing": {"call": "os.rename", "when": "after", "match": "/predictions/"},
    "before the mark": {"call": "os.replace", "when": "before", "match": "published.json"},
    "after the mark": {"call": "os.replace", "when": "after", "match": "published.json"},
}
