"""Logs, traces, metrics, rejections, health and alerts."""
