"""What Doorbell says about itself: logs, traces, metrics, rejections, health, alerts."""
