"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Of one application; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("jointrt_sessions", "Streams that are open.", registry=self.registry)
        self.refused = Counter("jointrt_sessions_refused", "Streams that found no room.", registry=self.registry)
        self.failed = Counter("jointrt_sessions_failed", "Streams that ended by an error.", registry=self.registry)
        self.frames = Counter("jointrt_frames", "Frames that were segmented.", registry=self.registry)
        self.dropped = Counter("jointrt_frames_dropped", "Frames that were not.", registry=self.registry)
        self.latency = Histogram(
            "jointrt_frame_seconds", "From a frame's arrival to its label map.", buckets=SECONDS, registry=self.registry
        )

    def page(self) -> bytes:
        """In the text format."""
        return generate_latest(self.registry)
