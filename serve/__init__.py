"""Live streams over a network: one WebSocket is one stream, and has one `Segmenter`."""
