"""Imports what Doorbell's processes import. tests/support/processes.py forks them from a process with these modules."""

import gc

import arq.cli
import httpx_aiohttp
import uvicorn.lifespan.on
import uvicorn.loops.uvloop
import uvicorn.main

import app.cli.run
import app.intake.http_protocol
import app.main
import app.sandbox.api
import app.web
import jobs.worker
from app.ledger.scripts import check_callers
from app.visits.client import tls_context
from app.webhooks.registry import load_sources

load_sources().load(load_sources())
load_sources.cache_clear()
check_callers()
tls_context()

# The forked processes share the memory of these objects as long as no collection visits them.
gc.collect()
gc.freeze()

__all__ = ["app", "arq", "httpx_aiohttp", "jobs", "uvicorn"]
