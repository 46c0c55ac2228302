"""One pair of files for each scheduling tool, and nothing else: `tool.py` and `tool.json` (see app/webhooks/source.py)."""
