"""The sources: a pair of files for each scheduling tool, `tool.py` and `tool.json` (see app/webhooks/source.py)."""
