"""Many requests on one engine: latency and throughput of traffic on calibrated costs, and schedules step by step."""
