"""The boundaries of the commit path, as the hook in `hook/` takes them: a call, and whether before or after it.

On a disk its steps are renames; in an object store they are objects that are made, and one upload that is completed.
"""

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
STORE_BOUNDARIES: dict[str, dict[str, Any]] = {
    "after decode": BOUNDARIES["after decode"],
    "before the run's first object": {"call": "obstore.put", "when": "before", "match": "/run.json"},
    "before the plan": {"call": "obstore.put", "when": "before", "match": "/plan.json"},
    "after the plan": {"call": "obstore.put", "when": "after", "match": "/plan.json"},
    "before the part": {"call": "obstore.put", "when": "before", "match": "/attempts/", "nth": 2},
    "after the part": {"call": "obstore.put", "when": "after", "match": "/attempts/", "nth": 2},
    "before the part's record": {"call": "obstore.put", "when": "before", "match": "/staged/part-", "nth": 2},
    "after the part's record": {"call": "obstore.put", "when": "after", "match": "/staged/part-", "nth": 2},
    "before the manifest": {"call": "obstore.put", "when": "before", "match": "/manifest.json"},
    "between manifest and publishing": {"call": "obstore.put", "when": "after", "match": "/manifest.json"},
    "in the upload": {"call": "pipeline.run.one_object._receipts", "when": "before"},
    "after publishing": {"call": "obstore.put", "when": "after", "match": "/predictions/"},
    "before the mark": {"call": "obstore.put", "when": "before", "match": "/published.json"},
    "after the mark": {"call": "obstore.put", "when": "after", "match": "/published.json"},
}
